// Handoffs, timers, placement, reuse and the claim after a death over plain NATS, as docs/protocol.md §16 says.

import { connect } from "@nats-io/transport-node";
import * as coord from "./coord.mjs";
import { Presence } from "./presence.mjs";
import { entity, state } from "./tasks.mjs";

export class Together {
  constructor(nc, tenant, agent, instance) {
    Object.assign(this, { nc, tenant, agent, instance });
  }

  /** State a fact of an entity; `once`: on the condition that it is the first one. */
  state(kind, id, event, detail, body, { key = id, once = false } = {}) {
    const subject = coord.published({ tenant: this.tenant, agent: this.agent, key, kind, id, event, detail });
    return state(this.nc, subject, body, once ? `${entity(this.tenant, key, id, kind)}.>` : undefined);
  }

  async claim(key, id, n, instance = this.instance, agent = this.agent) {
    const subject = coord.published({ tenant: this.tenant, agent, key, kind: "task", id, event: "claimed", detail: [`${n}`] });
    await state(this.nc, subject, { instance }, `${entity(this.tenant, key, id)}.*.claimed.${n}`);
  }

  /** The pushes of one topic from now on; `next` waits for the one that `wanted` is true of. */
  async pushes(topic) {
    const pushed = this.nc.subscribe(`coord.push.${this.tenant}.${this.agent}.${topic}`);
    const messages = pushed[Symbol.asyncIterator]();
    await this.nc.flush();
    return async (wanted) => {
      for (;;) {
        const { value, done } = await messages.next();
        if (done) throw new Error("no more pushes");
        const told = value.json();
        if (wanted(told)) return told;
      }
    };
  }

  /** Everything that the log has of an entity, or of a key. */
  async read(key, kind, id) {
    const request = { filter: { key, kind, ...(id ? { id } : {}) }, from: "first" };
    return (await coord.call(this.nc, `coord.rpc.${this.tenant}.log.read`, request)).facts;
  }

  /** The next delivery of a capability's normal queue. */
  async pull(capability) {
    await coord.call(this.nc, `coord.rpc.${this.tenant}.task.open`, { capability });
    for (;;) {
      const inbox = `_INBOX.${crypto.randomUUID().replaceAll("-", "")}`;
      const pulled = this.nc.subscribe(inbox, { max: 1 });
      const subject = `$JS.API.CONSUMER.MSG.NEXT.EVENTS.task~${this.tenant}~${capability}~normal`;
      this.nc.publish(subject, JSON.stringify({ batch: 1, expires: 2_000_000_000 }), { reply: inbox });
      for await (const message of pulled) {
        if (message.headers?.code) break; // 408: nothing came; ask again
        const [, , , , key, , id] = message.subject.split(".");
        return { key, id, submitted: message.json() };
      }
    }
  }

  /** Be there, with a capability, until the returned function is called. */
  async join(capabilities) {
    const presence = new Presence(this.nc, this.tenant, this.agent, this.instance);
    presence.about = { instance: this.instance, capabilities };
    await presence.register();
    const beating = setInterval(() => presence.beat({ claims: 1 }), 1000);
    return () => clearInterval(beating);
  }

  /** Take a task under another instance, which dies of it. */
  async dieOf(capability) {
    const instance = "nodedead1";
    const own = await connect({ servers: this.nc.getServer(), name: `coord:${this.tenant}:node-dead:${instance}` });
    new Presence(own, this.tenant, "node-dead", instance).beat({ claims: 1 });
    const { key, id } = await this.pull(capability);
    await this.claim(key, id, 1, instance, "node-dead");
    await own.close();
    return id;
  }
}

/** What a task's history comes to, as far as a worker asks: the rules of §16.1. */
export function fold(facts) {
  const task = { claims: 0, holder: null, ended: null, output: null, input: null };
  for (const { event, detail, agent, data } of facts) {
    if (event === "submitted") task.input ??= data?.input ?? null;
    else if (task.ended) continue;
    else if (event === "claimed" && !task.holder && Number(detail[0]) === task.claims + 1) {
      task.claims += 1;
      task.holder = agent;
    } else if ((event === "released" || event === "returned") && Number(detail[0]) === task.claims) task.holder = null;
    else if (event === "completed" && agent === task.holder) Object.assign(task, { ended: event, output: data.output });
  }
  return task;
}

// --- the key of identical work: BLAKE2b with a digest of 20 bytes, which Node's crypto lacks ---------------------

const MASK = (1n << 64n) - 1n;
const IV = [
  0x6a09e667f3bcc908n, 0xbb67ae8584caa73bn, 0x3c6ef372fe94f82bn, 0xa54ff53a5f1d36f1n,
  0x510e527fade682d1n, 0x9b05688c2b3e6c1fn, 0x1f83d9abfb41bd6bn, 0x5be0cd19137e2179n,
];
const SIGMA = [
  "0123456789abcdef", "ea489fd61c02b753", "b8c052fdae367194", "7931dcbe265a40f8", "905724afe1bc683d",
  "2c6a0b834d75fe19", "c51fed4a0763928b", "db7ec13950f4862a", "6fe9b308c2d714a5", "a2847615fb9e3cd0",
];

export function blake2b(bytes, length) {
  const h = [...IV];
  h[0] ^= 0x01010000n ^ BigInt(length);
  const blocks = Math.max(1, Math.ceil(bytes.length / 128));
  const padded = Buffer.concat([bytes, Buffer.alloc(blocks * 128 - bytes.length)]);
  const turn = (value, by) => ((value >> by) | (value << (64n - by))) & MASK;
  for (let block = 0; block < blocks; block++) {
    const m = Array.from({ length: 16 }, (_, i) => padded.readBigUInt64LE(block * 128 + i * 8));
    const v = [...h, ...IV];
    v[12] ^= BigInt(Math.min((block + 1) * 128, bytes.length));
    if (block === blocks - 1) v[14] ^= MASK;
    const mix = (a, b, c, d, x, y) => {
      v[a] = (v[a] + v[b] + x) & MASK;
      v[d] = turn(v[d] ^ v[a], 32n);
      v[c] = (v[c] + v[d]) & MASK;
      v[b] = turn(v[b] ^ v[c], 24n);
      v[a] = (v[a] + v[b] + y) & MASK;
      v[d] = turn(v[d] ^ v[a], 16n);
      v[c] = (v[c] + v[d]) & MASK;
      v[b] = turn(v[b] ^ v[c], 63n);
    };
    for (let round = 0; round < 12; round++) {
      const s = [...SIGMA[round % 10]].map((digit) => m[parseInt(digit, 16)]);
      mix(0, 4, 8, 12, s[0], s[1]);
      mix(1, 5, 9, 13, s[2], s[3]);
      mix(2, 6, 10, 14, s[4], s[5]);
      mix(3, 7, 11, 15, s[6], s[7]);
      mix(0, 5, 10, 15, s[8], s[9]);
      mix(1, 6, 11, 12, s[10], s[11]);
      mix(2, 7, 8, 13, s[12], s[13]);
      mix(3, 4, 9, 14, s[14], s[15]);
    }
    for (let i = 0; i < 8; i++) h[i] ^= v[i] ^ v[i + 8];
  }
  const digest = Buffer.alloc(64);
  h.forEach((word, i) => digest.writeBigUInt64LE(word, i * 8));
  return digest.subarray(0, length).toString("hex");
}

const ordered = (value) =>
  value === null || typeof value !== "object" || Array.isArray(value)
    ? value
    : Object.fromEntries(Object.keys(value).sort().map((name) => [name, ordered(value[name])]));

export const reuseKey = (capability, input) =>
  `reuse-${blake2b(Buffer.from(`${capability}\0${JSON.stringify(ordered(input))}`), 20)}`;
