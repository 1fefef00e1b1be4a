// Signals and locks over plain NATS, as docs/protocol.md §16.4 and §16.6 say: facts, and what is pushed.

import * as coord from "./coord.mjs";

export class Latches {
  constructor(nc, tenant, agent) {
    Object.assign(this, { nc, tenant, agent });
  }

  async state(kind, key, id, event, detail, body = {}) {
    const subject = coord.published({ tenant: this.tenant, agent: this.agent, key, kind, id, event, detail });
    const ack = (await this.nc.request(subject, JSON.stringify(body), { timeout: 30_000 })).json();
    if (ack.error) throw Object.assign(new Error(ack.error.description), { code: ack.error.err_code });
    return ack;
  }

  /** The pushes of one topic from now on. */
  async pushes(topic) {
    const pushed = this.nc.subscribe(`coord.push.${this.tenant}.${this.agent}.${topic}`);
    await this.nc.flush();
    return pushed;
  }

  raise(name, data) {
    return this.state("signal", "signals", name, "raised", [], { data });
  }

  /** Wait until it is raised, before or after; `then` is called when the wait is stored.  Resolves to its data. */
  async wait(name, then) {
    const pushed = await this.pushes("signal");
    const wait = `js-${crypto.randomUUID().slice(0, 8)}`;
    await this.state("signal", "signals", name, "awaited", [wait], { names: [name] });
    if (then) await then();
    for await (const message of pushed) {
      const told = message.json();
      if (told.what === "raised" && told.wait === wait) {
        pushed.unsubscribe();
        return told.data;
      }
    }
  }

  /** Ask for a lock; `then` is called when the request is stored.  Resolves to what was pushed of it. */
  async request(name, token, permits, then) {
    const pushed = await this.pushes("lock");
    await this.state("lock", name, name, "requested", [token], { permits, ttl_s: 60 });
    if (then) await then();
    for await (const message of pushed) {
      const told = message.json();
      if (told.token === token && (told.what === "granted" || told.what === "refused")) {
        pushed.unsubscribe();
        return told;
      }
    }
  }

  release(name, token) {
    return this.state("lock", name, name, "released", [token]);
  }
}
