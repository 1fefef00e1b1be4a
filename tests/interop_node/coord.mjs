// coord for a plain Node client, from docs/protocol.md alone: subjects, ids, headers, bodies,
// frames, and a subscriber that misses nothing.  No SDK, nothing but NATS and MessagePack.

import { createHash } from "node:crypto";
import * as zlib from "node:zlib";
import { decode as unpack, ExtData, ExtensionCodec } from "@msgpack/msgpack";
import { headers as newHeaders } from "@nats-io/transport-node";

// --- subjects (section 1) ------------------------------------------------------------------

const TOKEN = /^[a-z0-9_-]{1,64}$/;

export function fnv1a32(text) {
  let hash = 0x811c9dc5;
  for (const byte of Buffer.from(text)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return hash;
}

export const partition = (token) => fnv1a32(token) % 16;

function tokens(...values) {
  for (const value of values) if (!TOKEN.test(value)) throw new Error(`not a token: ${JSON.stringify(value)}`);
  return values;
}

export function published({ tenant, agent, key, kind, id, event, detail = [] }) {
  return ["coord.ev", ...tokens(tenant, agent, key, kind, id, event, ...detail)].join(".");
}

export function stored({ tenant, agent, key, kind, id, event, detail = [] }, root = "coord.log") {
  return [root, partition(key), ...tokens(tenant, key, kind, id, agent, event, ...detail)].join(".");
}

export function liveSubjects(tenant, { key, kind, id, agent, event } = {}) {
  const p = key === undefined ? "*" : partition(key);
  const first = ["coord.live", p, tenant, key ?? "*", kind ?? "*", id ?? "*", agent ?? "*", event ?? ">"].join(".");
  // NATS has no wildcard for "none or more" detail tokens.
  return event === undefined ? [first] : [first, `${first}.>`];
}

// --- ids (section 6) -----------------------------------------------------------------------

const dashed = (hex) => hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");

export function uuid7(unixMs, random80Hex) {
  const random = BigInt(`0x${random80Hex}`);
  const high = random >> 68n; // 12 bits
  const low = random & ((1n << 62n) - 1n);
  const value = (BigInt(unixMs) << 80n) | (0x7n << 76n) | (high << 64n) | (0x2n << 62n) | low;
  return dashed(value.toString(16).padStart(32, "0"));
}

export function countedId(session74Hex, count) {
  const session = BigInt(`0x${session74Hex}`);
  const [upper, middle, lower] = [session >> 26n, (session >> 14n) & 0xfffn, session & 0x3fffn];
  const value = (upper << 80n) | ((0x8000n | middle) << 64n) | ((0x8000n | lower) << 48n) | BigInt(count);
  return dashed(value.toString(16).padStart(32, "0"));
}

export function derivedId(fields) {
  const { key, definition_version: version, step, attempt, ordinal } = fields;
  const said = `${key}:${version}:${step}:${attempt}.${ordinal}`;
  const plain = /^[\x21\x23\x24\x26-\x7e]{1,128}$/.test(said) && !key.includes(":") && !version.includes(":");
  return plain ? said : hashedId(fields);
}

export function hashedId({ tenant, key, definition_version, step, attempt, ordinal }) {
  const fields = [tenant, key, definition_version, step, String(attempt), String(ordinal)];
  const hash = createHash("sha256").update("coord/derived/1");
  for (const field of fields) hash.update(`${Buffer.byteLength(field)}:${field},`);
  const bytes = hash.digest().subarray(0, 16);
  bytes[6] = (bytes[6] & 0x0f) | 0x80;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  return dashed(bytes.toString("hex"));
}

// --- headers (section 3) -------------------------------------------------------------------

export function quote(text) {
  let out = "";
  for (const byte of Buffer.from(text)) {
    const plain = byte > 0x20 && byte < 0x7f && byte !== 0x22 && byte !== 0x25;
    out += plain ? String.fromCharCode(byte) : `%${byte.toString(16).toUpperCase().padStart(2, "0")}`;
  }
  return out;
}

export function unquote(value) {
  if (value.length > 1 && value.startsWith('"') && value.endsWith('"')) {
    value = value.slice(1, -1).replace(/\\(.)/g, "$1");
  }
  const text = decodeURIComponent(value); // refuses '%' without digits and what is not UTF-8
  // eslint-disable-next-line no-control-regex
  if (/[\u0000-\u001f\u007f-\u009f\ufdd0-\ufdef\ufffe\uffff]/u.test(text)) throw new Error("a control character");
  return text;
}

export function cloudEvent({ tenant, agent, id, type, time, contentType, correlation, causation, traceparent, schema }) {
  const fields = {
    "ce-specversion": "1.0",
    "ce-id": quote(id),
    "ce-source": `/${tenant}/${agent}`,
    "ce-type": type && quote(type),
    "ce-time": time,
    "ce-datacontenttype": contentType,
    traceparent,
    "Coord-Correlation": correlation && quote(correlation),
    "Coord-Causation": causation && quote(causation),
    "Coord-Schema": schema && String(schema),
    "Nats-Msg-Id": `${tenant}.${agent}.${quote(id)}`,
  };
  const block = newHeaders();
  for (const [name, value] of Object.entries(fields)) if (value) block.set(name, value);
  return block;
}

/** The headers of a message as [[name, value]…], as the sender wrote them: up to the server's own. */
export function senderHeaders(block) {
  if (!block) return [];
  const lines = new TextDecoder().decode(block).split("\r\n").slice(1, -2);
  const server = lines.findLastIndex((line) => line.startsWith("Nats-Stream: "));
  return lines.slice(0, server < 0 ? undefined : server).map((line) => {
    const colon = line.indexOf(":");
    return [line.slice(0, colon), line.slice(colon + 1).trim()];
  });
}

// --- times: RFC 3339 to microseconds and back ------------------------------------------------

export function micros(text) {
  const found = /^(\d{4})-(\d\d)-(\d\d)[Tt ](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))$/.exec(text);
  if (!found) throw new Error(`not a time: ${text}`);
  const [, year, month, day, hour, minute, second, fraction = "", sign, offsetHours, offsetMinutes] = found;
  const leap = second === "60";
  const date = new Date(0);
  date.setUTCFullYear(+year, month - 1, +day); // Date.UTC takes years below 100 for 19xx
  date.setUTCHours(+hour, +minute, leap ? 59 : +second);
  const offset = sign ? (sign === "-" ? -1 : 1) * (offsetHours * 60 + +offsetMinutes) * 60_000 : 0;
  const part = leap ? 999_999 : +fraction.padEnd(6, "0").slice(0, 6);
  return BigInt(date.getTime() - offset) * 1000n + BigInt(part);
}

export function rfc3339(us) {
  const second = us / 1_000_000n - (us % 1_000_000n < 0n ? 1n : 0n);
  const part = us - second * 1_000_000n;
  return `${new Date(Number(second) * 1000).toISOString().slice(0, -5)}.${part.toString().padStart(6, "0")}Z`;
}

// --- bodies and frames (sections 4 and 5) ------------------------------------------------------

export const FRAME = "application/vnd.coord.frame+msgpack";

/** A frame for one subject; entries are [Date, data]. */
export function frame(pack, entries) {
  const base = entries[0][0].getTime() * 1000;
  return pack([1, base, entries.map(([at, data]) => [at.getTime() * 1000 - base, data])]);
}

const extensions = new ExtensionCodec();
extensions.register({
  type: -1,
  encode: () => null,
  decode: (bytes) => {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    let seconds, nanos;
    if (bytes.length === 4) [seconds, nanos] = [BigInt(view.getUint32(0)), 0n];
    else if (bytes.length === 8) {
      const both = view.getBigUint64(0);
      [seconds, nanos] = [both & 0x3ffffffffn, both >> 34n];
    } else [seconds, nanos] = [view.getBigInt64(4), BigInt(view.getUint32(0))];
    return new Timestamp(seconds * 1_000_000n + nanos / 1000n);
  },
});

class Timestamp {
  constructor(us) {
    this.us = us;
  }
}

/** MessagePack data as JSON has it: binary is base64, a timestamp RFC 3339. */
function asJson(value) {
  if (value instanceof Uint8Array) return Buffer.from(value).toString("base64");
  if (value instanceof Timestamp) {
    return rfc3339(value.us).replace(/\.000000Z$/, "Z");
  }
  if (value instanceof ExtData) throw new Error("an extension that JSON lacks");
  if (typeof value === "bigint") return Number(value);
  if (Array.isArray(value)) return value.map(asJson);
  if (value !== null && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([name, field]) => [name, asJson(field)]));
  }
  return value;
}

const decodeMsgpack = (bytes) => asJson(unpack(bytes, { extensionCodec: extensions, useBigInt64: true }));

function decompress(bytes) {
  if (!zlib.zstdDecompressSync) throw new Error("this Node has no zstd");
  return zlib.zstdDecompressSync(bytes, { maxOutputLength: 8 * 1024 * 1024 });
}

const JSON_TYPES = /^(application|text)\/json$|\+json$/;
const MSGPACK_TYPES = /^application\/(x-|vnd\.)?msgpack$/;

/** The facts of one message of the log: what the projector and every other reader make of it. */
export function decodeFacts(storedSubject, senderFields, body, seq, storedAt) {
  const [, , p, tenant, key, kind, id, agent, event, ...detail] = storedSubject.split(".");
  if (storedSubject !== stored({ tenant, agent, key, kind, id, event, detail }) || +p !== partition(key)) {
    throw new Error(`not a subject of the log: ${storedSubject}`);
  }
  const fields = {};
  for (const [name, value] of senderFields) fields[name.toLowerCase()] = value;
  const read = (name) => (fields[name] === undefined ? undefined : unquote(fields[name]));
  if ((read("ce-specversion") ?? "1.0") !== "1.0") throw new Error("wire.specversion");
  if ((read("ce-source") ?? `/${tenant}/${agent}`) !== `/${tenant}/${agent}`) throw new Error("wire.envelope");
  const given = read("ce-datacontenttype") ?? fields["content-type"] ?? "application/json";
  const contentType = given.split(";")[0].trim().toLowerCase();
  const trace = [fields.traceparent, read("ce-traceparent")].find((value) => value !== undefined);
  const common = {
    tenant,
    agent,
    key,
    kind,
    id,
    event,
    detail,
    partition: +p,
    seq,
    stored_at: storedAt,
    type: read("ce-type") || `coord.${kind}.${event}`,
    schema: Number(read("coord-schema") ?? 1),
    correlation_id: read("coord-correlation") || null,
    causation_id: read("coord-causation") || null,
    traceparent: validTrace(trace) ? trace : null,
  };
  const eventId = read("ce-id") ?? `events-${seq}`;
  if (contentType === FRAME || contentType === `${FRAME}+zstd`) {
    const bytes = contentType === FRAME ? body : decompress(body);
    const [version, base, entries] = unpack(bytes, { extensionCodec: extensions, useBigInt64: true });
    if (Number(version) !== 1) throw new Error("wire.frame");
    return entries.map(([delta, data], index) => ({
      ...common,
      index,
      occurred_at: rfc3339(BigInt(base) + BigInt(delta)),
      event_id: `${eventId}/${index}`,
      data: asJson(data),
    }));
  }
  let data = null;
  if (body.length && JSON_TYPES.test(contentType)) data = JSON.parse(new TextDecoder().decode(body));
  else if (body.length && MSGPACK_TYPES.test(contentType)) data = decodeMsgpack(body);
  else if (body.length) throw new Error("wire.payload");
  const time = read("ce-time");
  const occurredAt = time === undefined ? storedAt : rfc3339(micros(time));
  return [{ ...common, index: 0, occurred_at: occurredAt, event_id: eventId, data }];
}

function validTrace(text) {
  const found = /^(?!ff)([0-9a-f]{2})-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(-.*)?$/.exec(text ?? "");
  return found !== null && !(found[1] === "00" && found[2] !== undefined);
}

// --- subscribing (section 11) ------------------------------------------------------------------

const HELD_MAX = 8192;
const AUDIT_MS = 5000;

/**
 * Follows the log: yields facts in order, each once.  `start`: {from: "new"|"first"}, {from_seq}, {from_time}.
 * Throws when a part of the log is gone.
 */
export class Follower {
  #nc;
  #tenant;
  #filter;
  #start; // the next log.read's own fields
  #seq = 0; // the position's sequence; 0 while unknown
  #created;
  #live = false;
  #generation = 0; // how often the live feed broke
  #held = [];
  #ready = [];
  #failure;
  #wake = () => {};
  #heard = Date.now();
  // A replicated log: what was taken since the position that was last verified under this leader.
  #leader = "";
  #verified = null;
  #recent = new Set();
  #known = new Set();
  #knownBelow = 0;
  stats = { pages: 0, gaps: 0, repeats: 0 };

  constructor(nc, tenant, filter = {}, start = { from: "new" }) {
    this.#nc = nc;
    this.#tenant = tenant;
    this.#filter = filter;
    this.#start = start;
    // 1. Subscribe first.
    this.subscriptions = liveSubjects(tenant, filter).map((subject) =>
      nc.subscribe(subject, { callback: (error, message) => this.#receive(error, message) }),
    );
    this.#watch();
  }

  close() {
    for (const subscription of this.subscriptions) subscription.unsubscribe();
  }

  // 5. A gap: everything held may have a hole behind it.
  #gap() {
    this.stats.gaps += 1;
    this.#generation += 1;
    this.#held = [];
    this.#live = false;
    this.#wake();
  }

  async #watch() {
    for await (const status of this.#nc.status()) {
      if (["disconnect", "reconnect", "slowConsumer"].includes(status.type)) this.#gap();
    }
  }

  #receive(error, message) {
    if (error) return this.#fail(error);
    // Only the last of each name is the server's.
    const last = (name) => message.headers?.last(name);
    const subject = message.subject.replace("coord.live.", "coord.log.");
    if (last("Nats-Stream") !== "EVENTS" || last("Nats-Subject") !== subject) return; // not from the stream
    const live = {
      seq: Number(last("Nats-Sequence")),
      before: Number(last("Nats-Last-Sequence")),
      facts: () => {
        const seen = [...message.headers].flatMap(([name, values]) => values.map((value) => [name, value]));
        const sender = seen.filter(([name]) => !/^Nats-(Stream|Subject|Sequence|Time-Stamp|Last-Sequence)$/.test(name));
        const at = rfc3339(micros(last("Nats-Time-Stamp")));
        return decodeFacts(subject, sender, message.data, Number(last("Nats-Sequence")), at);
      },
    };
    if (this.#live) this.#follow(live);
    else if (this.#held.push(live) > HELD_MAX) this.#gap();
    this.#wake();
  }

  // 4. Live.
  #follow(live) {
    if (!this.#leader) this.#heard = Date.now(); // a replicated log is audited though it is busy
    if (live.seq < this.#seq) return void (this.stats.repeats += 1);
    if (live.before >= this.#seq || this.#ready.length >= HELD_MAX) {
      this.#gap();
      this.#held.push(live);
      return;
    }
    this.#seq = live.seq + 1;
    this.#start = { from_seq: this.#seq };
    if (this.#leader) this.#recent.add(live.seq);
    try {
      this.#ready.push(...live.facts());
    } catch {
      // A dead letter: the projector parks it.
    }
  }

  // 2. Catch up, 3. join, and 6. audit: the same question.
  async #read() {
    const generation = this.#generation;
    const wasLive = this.#live;
    this.#live = false; // what arrives meanwhile is held
    const start = this.#start;
    let page;
    try {
      const request = { filter: this.#filter, ...start };
      page = await call(this.#nc, `coord.rpc.${this.#tenant}.log.read`, request, wasLive ? 1000 : 5000);
    } catch (error) {
      if (["subscribe.trimmed", "subscribe.replaced"].includes(error.code)) throw error;
      if (wasLive && generation === this.#generation) this.#join(); // only an audit: the next one will do
      else await new Promise((resolve) => setTimeout(resolve, 100));
      return;
    }
    this.stats.pages += 1;
    // 7. What lies between is gone, or it is another log.
    this.#created ??= page.created;
    if (page.created !== this.#created) throw new Error("the log was replaced");
    this.#ready.push(...page.facts.filter((f) => !this.#known.has(f.seq) && !this.#known.has(`${f.seq}/${f.index}`)));
    this.#seq = page.next_seq;
    this.#start = { from_seq: page.next_seq, from_index: page.next_index };
    if (page.next_seq >= this.#knownBelow) this.#known = new Set();
    const changed = this.#leader !== "" && page.leader !== this.#leader && start !== this.#verified;
    this.#leader = page.leader;
    if (changed) {
      // The old leader may have died between storing and republishing: read again what was taken live.
      this.#known = new Set([...this.#recent, ...page.facts.map((f) => `${f.seq}/${f.index}`)]);
      this.#knownBelow = page.next_seq + (page.next_index ? 1 : 0);
      this.#recent.clear();
      this.#start = this.#verified;
      this.#seq = this.#verified.from_seq;
      return this.#gap();
    }
    this.#verified = this.#start;
    this.#recent.clear();
    if (page.next_seq > page.last_seq && generation === this.#generation) this.#join();
  }

  #join() {
    const held = this.#held;
    this.#held = [];
    this.#live = true;
    this.#heard = Date.now();
    for (const live of held) {
      if (this.#live) this.#follow(live);
      else this.#held.push(live); // a gap within a subject: wait for the log
    }
  }

  #fail(error) {
    this.#failure = error;
    this.#wake();
  }

  async ready() {
    while (!this.#live) await this.#read();
  }

  async *[Symbol.asyncIterator]() {
    for (;;) {
      while (this.#ready.length) yield this.#ready.shift();
      if (this.#failure) throw this.#failure;
      const idleMs = AUDIT_MS * (1 + Math.random() / 2) - (Date.now() - this.#heard);
      if (!this.#live || idleMs <= 0) {
        await this.#read();
        continue;
      }
      await new Promise((resolve) => {
        const timer = setTimeout(resolve, idleMs);
        this.#wake = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
  }
}

/** One request to the service (section 10); an error answer is thrown with its `code`. */
export async function call(nc, subject, request, timeout = 30_000) {
  const message = await nc.request(subject, JSON.stringify(request), { timeout });
  const answer = message.json();
  if (message.headers?.has("Nats-Service-Error-Code")) {
    throw Object.assign(new Error(answer.message), { code: answer.code, details: answer.details });
  }
  return answer;
}

