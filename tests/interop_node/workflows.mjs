// Workflows over plain NATS, as docs/protocol.md §16.3 says.

import { headers } from "@nats-io/transport-node";
import * as coord from "./coord.mjs";

export class Workflows {
  constructor(nc, tenant, agent, instance) {
    Object.assign(this, { nc, tenant, agent, instance });
  }

  async state(kind, key, id, event, body, filter, schema) {
    const options = { timeout: 30_000, headers: headers() };
    if (schema) options.headers.set("Coord-Schema", String(schema));
    if (filter) {
      options.headers.set("Nats-Expected-Last-Subject-Sequence", "0");
      options.headers.set("Nats-Expected-Last-Subject-Sequence-Subject", filter);
    }
    const subject = coord.published({ tenant: this.tenant, agent: this.agent, key, kind, id, event, detail: [] });
    const ack = (await this.nc.request(subject, JSON.stringify(body), options)).json();
    if (ack.error) throw Object.assign(new Error(ack.error.description), { code: ack.error.err_code });
    return ack;
  }

  /** Start once under `id`; `then` is called when it is stored.  Resolves to how it ends, as it is pushed. */
  async run(id, definition, input, then, rerun) {
    const pushed = this.nc.subscribe(`coord.push.${this.tenant}.${this.agent}.workflow`);
    await this.nc.flush();
    const filter = `coord.log.${coord.partition(id)}.${this.tenant}.${id}.workflow.${id}.>`;
    const body = { definition, input, instance: this.instance, rerun };
    await this.state("workflow", id, id, "started", body, filter, rerun && 2);
    if (then) await then();
    for await (const message of pushed) {
      const told = message.json();
      if (told.what === "ended" && told.id === id) return told;
    }
  }

  /** Start anew under `id` what `of` did, without the steps that `of` has completed, but for those in `from`. */
  async rerun(of, id, definition, input, from) {
    const { folds } = await coord.call(this.nc, `coord.rpc.${this.tenant}.service.understands`, {});
    if (folds < 2) throw new Error("the service knows no reruns");
    const done = await coord.call(this.nc, `coord.rpc.${this.tenant}.log.read`, {
      filter: { key: of, kind: "task", event: "completed" },
      from: "first",
    });
    const steps = {};
    for (const fact of done.facts) if (!from.includes(fact.id)) steps[fact.id] = { output: fact.data.output };
    return this.run(id, definition, input, undefined, { of, from, steps });
  }

  raise(id, name, data) {
    return this.state("signal", id, name, "raised", { data });
  }

  cancel(id, reason) {
    return this.state("workflow", id, id, "cancelled", { reason });
  }
}
