// Questions to the tables over plain NATS and HTTP, as docs/protocol.md §10.1 and docs/howto/query.md say.

import { headers as newHeaders } from "@nats-io/transport-node";

export class Query {
  constructor(nc, tenant) {
    Object.assign(this, { nc, tenant });
  }

  /** One page; an error answer is thrown with its `code`. */
  async ask(name, asked = {}, deadlineMs = 60_000) {
    const headers = newHeaders();
    headers.set("Coord-Deadline-Ms", String(deadlineMs));
    const subject = `coord.rpc.${this.tenant}.query.${name}`;
    const message = await this.nc.request(subject, JSON.stringify(asked), { headers, timeout: 60_000 });
    const answer = message.json();
    const status = message.headers?.get("Nats-Service-Error-Code");
    if (status) throw Object.assign(new Error(answer.message), { code: answer.code, status: Number(status) });
    return answer;
  }

  /** All pages. */
  async *pages(name, asked) {
    for (let after = null; ; ) {
      const page = await this.ask(name, { ...asked, after });
      yield page;
      after = page.next;
      if (after === null) return;
    }
  }

  async refusal(name, asked, deadlineMs) {
    try {
      await this.ask(name, asked, deadlineMs);
      return "none";
    } catch (error) {
      return `${error.status} ${error.code}`;
    }
  }
}

/** The same over HTTP: an answer, and whether it still holds. */
export async function overHttp(url, token, path) {
  const authorization = `Bearer ${token}`;
  const first = await fetch(`${url}/v1/query/${path}`, { headers: { authorization } });
  const again = await fetch(`${url}/v1/query/${path}`, {
    headers: { authorization, "If-None-Match": first.headers.get("etag") },
  });
  const stranger = await fetch(`${url}/v1/query/${path}`);
  return { answer: await first.json(), statuses: [first.status, again.status, stranger.status] };
}
