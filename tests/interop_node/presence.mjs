// Presence over plain NATS, as docs/protocol.md §16.2 says.

import * as coord from "./coord.mjs";

export class Presence {
  constructor(nc, tenant, agent, instance) {
    Object.assign(this, { nc, tenant, agent, instance });
    this.about = { instance, capabilities: { ocr: 2 }, labels: { region: "eu" } };
  }

  beat(fields = {}) {
    this.nc.publish(`coord.hb.${this.tenant}.${this.agent}.${this.instance}`, JSON.stringify(fields));
  }

  async register() {
    const { tenant, agent } = this;
    const subject = coord.published({ tenant, agent, key: agent, kind: "agent", id: agent, event: "registered", detail: [] });
    await this.nc.request(subject, JSON.stringify(this.about), { timeout: 30_000 });
    this.beat({ about: this.about });
  }

  find(asked) {
    return coord.call(this.nc, `coord.rpc.${this.tenant}.agents.find`, asked);
  }

  /** What it is told on its push subject: `what` of the first `count`. */
  async told(count) {
    const heard = [];
    for await (const message of this.nc.subscribe(`coord.push.${this.tenant}.${this.agent}.presence`)) {
      const { what } = message.json();
      if (what === "about" || what === "beat") {
        this.beat({ here: true, about: this.about }); // whoever has just started asks
        continue;
      }
      heard.push(what);
      if (what === "drain") this.beat({ draining: true });
      if (heard.length === count) return heard;
    }
  }
}
