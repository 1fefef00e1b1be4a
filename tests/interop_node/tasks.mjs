// Tasks over plain NATS, as docs/protocol.md says: no SDK, no admin rights, core NATS and JetStream's subjects.

import { headers } from "@nats-io/transport-node";
import * as coord from "./coord.mjs";

/** The newest message under `filter` is the one at `last`; 0: there is none. */
const condition = (filter, last) => {
  const made = headers();
  made.set("Nats-Expected-Last-Subject-Sequence", String(last));
  made.set("Nats-Expected-Last-Subject-Sequence-Subject", filter);
  return made;
};

export const entity = (tenant, key, id, kind = "task") => `coord.log.${coord.partition(key)}.${tenant}.${key}.${kind}.${id}`;

export async function state(nc, subject, body, filter, last = 0) {
  const options = { timeout: 30_000, ...(filter ? { headers: condition(filter, last) } : {}) };
  const ack = (await nc.request(subject, JSON.stringify(body), options)).json();
  if (ack.error) throw Object.assign(new Error(ack.error.description), { code: ack.error.err_code });
  return ack;
}

export class Tasks {
  constructor(nc, tenant, agent, instance) {
    Object.assign(this, { nc, tenant, agent, instance });
  }

  subject(key, id, event, ...detail) {
    return coord.published({ tenant: this.tenant, agent: this.agent, key, kind: "task", id, event, detail });
  }

  /** The queues exist when this is answered. */
  open(capability) {
    return coord.call(this.nc, `coord.rpc.${this.tenant}.task.open`, { capability });
  }

  /** Submit once under `id`; resolves to the outcome that is pushed. */
  async submit(capability, priority, id, input) {
    await this.open(capability);
    const pushed = this.nc.subscribe(`coord.push.${this.tenant}.${this.agent}.task`);
    await this.nc.flush();
    const body = { input, instance: this.instance, retries: 0 };
    await state(this.nc, this.subject(id, id, "submitted", capability, priority), body, `${entity(this.tenant, id, id)}.>`);
    for await (const message of pushed) {
      const told = message.json();
      if (told.what === "ended" && told.key === id && told.id === id) return told;
    }
  }

  /** Take tasks of one queue, one at a time, until `count` were run; `bounds`: what the handler says of retries and timeout. */
  async work(capability, priority, count, run, bounds = {}) {
    await this.open(capability);
    const beat = () =>
      this.nc.publish(
        `coord.hb.${this.tenant}.${this.agent}.${this.instance}`,
        JSON.stringify({ at: Date.now() / 1000, load: 0, claims: 1 }),
      );
    beat();
    const beating = setInterval(beat, 1000);
    const consumer = `task~${this.tenant}~${capability}~${priority}`;
    try {
      for (let done = 0; done < count; ) {
        const inbox = `_INBOX.${crypto.randomUUID().replaceAll("-", "")}`;
        const pulled = this.nc.subscribe(inbox, { max: 1 });
        this.nc.publish(
          `$JS.API.CONSUMER.MSG.NEXT.EVENTS.${consumer}`,
          JSON.stringify({ batch: 1, expires: 5_000_000_000 }),
          { reply: inbox },
        );
        for await (const message of pulled) {
          if (message.headers?.code) break; // 408: nothing came; ask again
          const [, , , , key, , id] = message.subject.split(".");
          const claim = this.subject(key, id, "claimed", "1");
          const submitted = Number(message.reply.split(".").at(-4)); // $JS.ACK.….{deliveries}.{stream seq}.{consumer seq}.{time}.{pending}
          try {
            await state(this.nc, claim, { instance: this.instance, ...bounds }, `${entity(this.tenant, key, id)}.>`, submitted);
          } catch (error) {
            if (error.code !== 10071) throw error;
            break; // somebody was first, or has cancelled it
          }
          const outcome = await run(message.json());
          for (const [step, output] of Object.entries(outcome.steps ?? {}))
            await state(this.nc, this.subject(key, id, "recorded"), { claim: 1, step, output });
          await state(this.nc, this.subject(key, id, outcome.event), { claim: 1, ...outcome.body });
          done += 1;
        }
      }
    } finally {
      clearInterval(beating);
    }
  }
}
