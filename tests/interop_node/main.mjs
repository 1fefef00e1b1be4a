// What tests/integration/test_interop_node.py runs: node main.mjs COMMAND URL TENANT [ARGUMENTS].
// Answers are JSON lines on stdout.

import { readFileSync } from "node:fs";
import { isDeepStrictEqual } from "node:util";
import { encode } from "@msgpack/msgpack";
import { jetstream } from "@nats-io/jetstream";
import { connect } from "@nats-io/transport-node";
import * as coord from "./coord.mjs";
import { Latches } from "./latches.mjs";
import { Presence } from "./presence.mjs";
import { overHttp, Query } from "./query.mjs";
import { Tasks } from "./tasks.mjs";
import { fold, reuseKey, Together } from "./together.mjs";
import { Workflows } from "./workflows.mjs";

const say = (value) => console.log(JSON.stringify(value));
const TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

const ask = (nc, tenant, asked) => new Presence(nc, tenant, "node-2", "x").find(asked);

const commands = {
  // Submit tasks, and say how each ended.
  async submit(nc, tenant, capability, inputs) {
    const tasks = new Tasks(nc, tenant, "node-boss", "nodeboss1");
    for (const [n, input] of JSON.parse(inputs).entries()) say(await tasks.submit(capability, "normal", `js-${n}`, input));
    try {
      await tasks.submit(capability, "normal", "js-0", "another input");
    } catch (error) {
      say({ refused: error.code });
    }
  },

  // Start workflows: one with an approval, one that is no definition, one that is cancelled, one that there is; then
  // one of two steps, and that again from its second.
  async workflow(nc, tenant, capability) {
    const flows = new Workflows(nc, tenant, "node-boss", "nodeboss2");
    const steps = [
      { name: "gate", signal: "ok", approval: true },
      { name: "each", needs: ["gate"], task: capability, for_each: "$input", max_parallelism: 1 },
    ];
    const gated = { name: "gated", version: "1", steps };
    say(await flows.run("js-flow-0", gated, [8, 4], () => flows.raise("js-flow-0", "ok", { approved: true })));
    const circle = { name: "circle", steps: [{ name: "a", task: "x", needs: ["b"] }, { name: "b", task: "x", needs: ["a"] }] };
    say(await flows.run("js-flow-1", circle, null));
    say(await flows.run("js-flow-2", gated, [], () => flows.cancel("js-flow-2", "enough")));
    try {
      await flows.run("js-flow-2", circle, null);
    } catch (error) {
      say({ refused: error.code });
    }
    const twice = {
      name: "twice",
      steps: [
        { name: "once", task: capability, input: "$input" },
        { name: "again", task: capability, input: "$steps.once.output" },
      ],
      output: "$steps.again.output",
    };
    await flows.run("js-flow-3", twice, 8);
    say(await flows.rerun("js-flow-3", "js-flow-3-r2", twice, 8, ["again"]));
  },

  // Register, be found, be told to drain, and end without a goodbye.
  async presence(nc, tenant) {
    const instance = "nodepresence1";
    const own = await connect({ servers: nc.getServer(), name: `coord:${tenant}:node-1:${instance}` });
    const presence = new Presence(own, tenant, "node-1", instance);
    const told = presence.told(1);
    await own.flush();
    await presence.register();
    let found;
    do found = await presence.find({ capability: "ocr", labels: { region: "eu" } });
    while (!found.instances.length);
    say({ found: found.instances[0] });
    await coord.call(nc, `coord.rpc.${tenant}.agents.drain`, { agent: "node-1" });
    say({ told: await told });
    do found = await presence.find({ agent: "node-1", state: "draining" });
    while (!found.instances.length);
    await own.close();
    do found = await ask(nc, tenant, { agent: "node-1", state: "gone" });
    while (!found.instances.length);
    say({ gone: found.instances[0].instance });
  },

  // Take a handoff and offer one to nobody; a timer that submits and raises; be the agent that a task is placed on;
  // join identical work; take the task of an instance that died.
  async together(nc, tenant) {
    const me = new Together(nc, tenant, "node-1", "nodetogether1");
    const [handed, timers, tasks] = [await me.pushes("handoff"), await me.pushes("timer"), await me.pushes("task")];
    const leave = await me.join({ desk: 1 });
    say({ ready: true });

    const offered = await handed((told) => told.what === "offered");
    await me.state("handoff", offered.id, "accepted", [`${offered.n}`], { instance: me.instance }, { key: offered.key });
    const said = (await me.read(offered.key, "handoff", offered.id)).map((fact) => fact.event);
    say({ work: offered.work, from: offered.from, last: said.at(-1) });
    const offer = { agent: "nobody-1", timeout_ms: 50, escalate: false, instance: me.instance };
    await me.state("handoff", "js-ho", "offered", [], offer, { once: true });
    say({ expired: (await handed((told) => told.what === "expired")).reason });

    const task = { input: 4, instance: me.instance };
    const then = { submit: { capability: "halve", task }, raise: { name: "js-due" } };
    const at = Date.now() / 1000 + 0.05;
    await me.state("timer", "js-later", "set", [], { at, then, instance: me.instance }, { once: true });
    const fired = await timers((told) => told.what === "fired");
    const ended = await tasks((told) => told.what === "ended");
    say({ fired: [fired.id, fired.n], ended: [ended.id, ended.output] });

    const placed = await tasks((told) => told.what === "placed");
    await me.claim(placed.key, placed.id, placed.claim);
    const { input, holder } = fold(await me.read(placed.key, "task", placed.id));
    await me.state("task", placed.id, "completed", [], { claim: placed.claim, output: input * 10 }, { key: placed.key });
    say({ placed: placed.claim, holder });

    const key = reuseKey("sum", { b: 2, a: 1 });
    const again = { input: { b: 2, a: 1 }, reuse_key: key };
    const refused = await me
      .state("task", `${key}-1`, "submitted", ["sum", "normal"], again, { key, once: true })
      .catch((error) => error.code);
    say({ refused, reused: fold(await me.read(key, "task")).output });

    const id = await me.dieOf("frail");
    const delivered = await me.pull("frail");
    const known = fold(await me.read(delivered.key, "task", delivered.id));
    await me.claim(delivered.key, delivered.id, known.claims + 1);
    const outcome = { claim: known.claims + 1, output: "alive" };
    await me.state("task", delivered.id, "completed", [], outcome, { key: delivered.key });
    say({ same: delivered.id === id, claims: known.claims, holder: known.holder });
    leave();
  },

  // Run tasks: a number is doubled, text is rejected, of anything else one step is done, and then it fails.
  async work(nc, tenant, capability, count) {
    const tasks = new Tasks(nc, tenant, "node-worker", "nodeworker1");
    await tasks.open(capability);
    say({ ready: true });
    await tasks.work(capability, "normal", Number(count), async ({ input }) =>
      typeof input === "number"
        ? { event: "completed", body: { output: input * 2 } }
        : typeof input === "string"
          ? { event: "rejected", body: { reason: "not a number" } }
          : { steps: { weigh: { kg: 3 } }, event: "failed", body: { error: "tired" } },
      { retries: 1, timeout_s: 900 },
    );
  },

  async publish(nc, tenant) {
    const js = jetstream(nc, { timeout: 30_000 });
    const agent = "node-1";
    const at = (kind, id, event, key = id, detail = []) => coord.published({ tenant, agent, key, kind, id, event, detail });
    const envelope = (id, more) => ({ headers: coord.cloudEvent({ tenant, agent, id, ...more }) });
    const acked = {};

    // Bare JSON, unacknowledged: the shortest fact there is.
    nc.publish(at("agent", agent, "status"), '{"load":0.2}');
    await nc.flush();

    // Bare JSON, acknowledged: JetStream's publish, or any request.
    acked.bare = await js.publish(at("file", "a-js", "scanned"), JSON.stringify({ lines: 3, text: "ä€😀" }));
    acked.request = (await nc.request(at("file", "b-js", "scanned"), "{}", { timeout: 30_000 })).json();

    // CloudEvents headers: JSON, then MessagePack.
    acked.json = await js.publish(
      at("task", "t1", "submitted", "wf-7", ["summarize", "critical"]),
      JSON.stringify({ title: "Grüße" }),
      envelope("id with ä space", {
        type: "com.example.submitted",
        time: "2026-01-02T03:04:05.678901+02:00",
        contentType: "application/json",
        correlation: "conversation 1",
        causation: "cause-1",
        traceparent: TRACE,
        schema: 1,
      }),
    );
    acked.msgpack = await js.publish(
      at("note", "n1", "taken"),
      encode({ n: 1.5, bytes: new Uint8Array([0, 255]), list: [1, null, true], at: new Date(1767323045678) }),
      envelope("m-1", { contentType: "application/msgpack" }),
    );

    // A frame: many status facts in one message.
    const base = Date.parse("2026-01-02T03:04:05.000Z");
    const entries = [0, 1, 2, 3].map((n) => [new Date(base + n * 250), { load: n / 4 }]);
    acked.frame = await js.publish(
      at("agent", agent, "status"),
      coord.frame(encode, entries),
      envelope("f-1", { contentType: coord.FRAME, traceparent: TRACE }),
    );

    // The same id again is the same fact.
    const once = () => js.publish(at("note", "n2", "taken"), '"once"', envelope("once-1"));
    acked.first = await once();
    acked.again = await once();

    // Claiming: first come, first served.
    const claim = async (worker) => {
      const fact = { tenant, agent: worker, key: "wf-7", kind: "task", id: "t1", event: "claimed", detail: ["1"] };
      const filter = coord.stored({ ...fact, agent: "any" }).replace(".any.", ".*.");
      const headers = coord.cloudEvent({ tenant, agent: worker, id: `claim-${worker}` });
      headers.set("Nats-Expected-Last-Subject-Sequence", "0");
      headers.set("Nats-Expected-Last-Subject-Sequence-Subject", filter);
      return (await nc.request(coord.published(fact), "{}", { headers, timeout: 30_000 })).json();
    };
    acked.claim = await claim("node-1");
    acked.refused = await claim("node-2");

    nc.publish(`coord.tel.${tenant}.${agent}.cpu`, "0.75");
    await nc.flush();
    say(acked);
  },

  // Prints every fact until `count` facts have come; breaks its own connection after each `breakEvery`.
  async subscribe(nc, tenant, filter, start, count, breakEvery) {
    const follower = new coord.Follower(nc, tenant, JSON.parse(filter), JSON.parse(start));
    await follower.ready();
    say({ ready: true });
    let seen = 0;
    for await (const fact of follower) {
      say({ fact });
      seen += 1;
      if (seen >= Number(count)) break;
      if (Number(breakEvery) && seen % Number(breakEvery) === 0) nc.reconnect();
    }
    say({ stats: follower.stats });
    follower.close();
  },

  // Raises one signal and waits for two others; takes a lock, twice: at once, and when its holder gives it back.
  async latches(nc, tenant) {
    const latches = new Latches(nc, tenant, "node-1");
    await latches.raise("node-up", { from: "node" });
    say({ before: await latches.wait("sdk-up") });
    say({ after: await latches.wait("sdk-later", () => say({ waits: true })) });
    const first = await latches.request("db", "tok1", 1);
    say({ lock: first.what, epoch: first.epoch });
    const refused = await latches.request("db", "tok2", 2);
    say({ lock: refused.what, code: refused.code });
    await latches.release("db", "tok1");
    const held = await latches.request("sdk-held", "tok3", 1, () => say({ wants: true }));
    say({ lock: held.what, epoch: held.epoch });
    await latches.release("sdk-held", "tok3");
  },

  // Asks about what it has stated: pages, the state of an entity, what still holds, what is refused; then over HTTP.
  async query(nc, tenant, http, token) {
    const query = new Query(nc, tenant);
    const state = async (kind, key, id, event, body) => {
      const subject = coord.published({ tenant, agent: "node-1", key, kind, id, event });
      return { key, seq: (await nc.request(subject, JSON.stringify(body), { timeout: 30_000 })).json().seq };
    };
    let seen;
    for (const n of [1, 2, 3]) seen = await state("note", "n1", "n1", "taken", { n });
    const history = { params: { key: "n1" }, rows: 2 };
    const first = await query.ask("history", { ...history, min_watermark: seen });
    const partition = String(coord.partition("n1"));
    say({ rows: first.rows.map((row) => row.data.n), column: first.columns[0], reached: first.watermark.EVENTS[partition][1] >= seen.seq });
    const pages = [];
    for await (const page of query.pages("history", history)) pages.push(page.rows.map((row) => row.data.n));
    say({ pages });
    const flag = await state("flag", "flags", "ranker", "set", { percentage: 25 });
    const [found] = (await query.ask("flag", { params: { id: "ranker" }, min_watermark: flag })).rows;
    say({ state: [found.is_set, found.percentage, found.set_by] });
    const still = await query.ask("history", { ...history, etag: first.etag });
    say({ modified: still.modified, rows: still.rows.length });
    const more = await state("note", "n1", "n1", "taken", { n: 4 });
    const newer = await query.ask("history", { params: { key: "n1" }, etag: still.etag, min_watermark: more });
    say({ modified: newer.modified, rows: newer.rows.length });
    say({
      refused: [
        await query.refusal("no-such"),
        await query.refusal("tasks", { params: { limit: "many" } }),
        await query.refusal("tasks", { params: { tenant: "other" } }),
        await query.refusal("tasks", { min_watermark: { key: "n1", seq: 1e9 } }, 50),
      ],
    });
    const told = await overHttp(http, token, "history?key=n1&_rows=1");
    say({ http: told.statuses, rows: told.answer.rows.length });
  },

  async read(nc, tenant, request) {
    try {
      say({ page: await coord.call(nc, `coord.rpc.${tenant}.log.read`, JSON.parse(request)) });
    } catch (error) {
      say({ error: { code: error.code, message: error.message, details: error.details } });
    }
  },
};

/** tests/golden/v1 against this implementation; prints what it checked and what differs. */
function vectors(directory) {
  const load = (name) => JSON.parse(readFileSync(`${directory}/${name}.json`, "utf8"));
  const checked = {};
  const differs = [];
  const check = (what, wanted, got) => {
    checked[what] = (checked[what] ?? 0) + 1;
    if (!isDeepStrictEqual(wanted, got)) differs.push({ what, wanted, got });
  };
  const attempt = (work) => {
    try {
      return work();
    } catch (error) {
      return { thrown: String(error) };
    }
  };
  const throws = (work) => attempt(work)?.thrown !== undefined;

  const subjects = load("subjects");
  for (const { token, fnv1a_32, partition } of subjects.partitions) {
    check("fnv1a_32", fnv1a_32, coord.fnv1a32(token));
    check("partition", partition, coord.partition(token));
  }
  for (const fact of subjects.facts) {
    check("publish", fact.publish, attempt(() => coord.published(fact)));
    check("stored", fact.stored, attempt(() => coord.stored(fact)));
    check("live", fact.live, attempt(() => coord.stored(fact, "coord.live")));
  }
  for (const token of subjects.invalid_tokens) {
    const fact = { ...subjects.facts[0], event: token };
    check("invalid token", true, throws(() => coord.published(fact)));
  }
  const ids = load("ids");
  for (const { unix_ms, random_80bits_hex, id } of ids.uuid7) check("uuid7", id, coord.uuid7(unix_ms, random_80bits_hex));
  for (const { session_74bits_hex, count, id } of ids.counted) check("counted", id, coord.countedId(session_74bits_hex, count));
  for (const { id, ...fields } of ids.hashed) check("hashed", id, coord.hashedId(fields));
  for (const { id, ...fields } of ids.derived) check("derived", id, coord.derivedId(fields));
  const headers = load("headers");
  for (const { text, encoded } of headers.percent_encoding) {
    check("quote", encoded, coord.quote(text));
    if (!/[\t\n]/.test(text)) check("unquote", text, attempt(() => coord.unquote(encoded)));
  }
  for (const { text, encoded } of headers.decoded_only) check("unquote", text, attempt(() => coord.unquote(encoded)));
  for (const value of headers.invalid) check("invalid value", true, throws(() => coord.unquote(value)));
  for (const message of load("messages")) {
    const facts = message.rows.filter((row) => row.fact).map((row) => row.fact);
    if (facts.length === 0) continue; // telemetry: not what a subscriber reads
    const block = message.headers && Buffer.from(message.headers, "base64");
    const body = Buffer.from(message.body, "base64");
    const read = () =>
      coord.decodeFacts(message.stored, coord.senderHeaders(block), body, message.seq, message.stored_at);
    check(`message: ${message.name}`, facts.map(sorted), attempt(() => read().map(sorted)));
  }
  say({ checked, differs });
}

const sorted = (fact) => Object.fromEntries(Object.entries(fact).sort(([a], [b]) => (a < b ? -1 : 1)));

const [command, ...rest] = process.argv.slice(2);
if (command === "vectors") {
  vectors(rest[0]);
} else {
  const [url, tenant, ...given] = rest;
  const nc = await connect({ servers: url, name: "node-1", reconnectTimeWait: 20, maxReconnectAttempts: -1 });
  await commands[command](nc, tenant, ...given);
  await nc.drain();
}
