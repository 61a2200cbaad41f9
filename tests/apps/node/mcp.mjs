// Clients of an MCP server: `node mcp.mjs URL COUNT COOKIES`. Each says one line of JSON of what became of its calls;
// after a line on standard input each says what its session is worth now, and what a new one is.
import { createInterface } from 'node:readline';
import { Client } from '@modelcontextprotocol/sdk/client/index.js';
import { StreamableHTTPClientTransport } from '@modelcontextprotocol/sdk/client/streamableHttp.js';

const [url, count, cookies] = process.argv.slice(2);
const CALLS = 5;

function fetchWithCookies() {
  let cookie;
  return async (target, options = {}) => {
    const headers = new Headers(options.headers);
    if (cookie) headers.set('cookie', cookie);
    const answer = await fetch(target, { ...options, headers });
    for (const each of answer.headers.getSetCookie()) cookie = each.split(';')[0];
    return answer;
  };
}

class Guest {
  fetch = cookies === 'cookies' ? fetchWithCookies() : fetch;

  async come() {
    this.transport = new StreamableHTTPClientTransport(new URL(url), { fetch: this.fetch });
    this.client = new Client({ name: 'guest', version: '1' });
    await this.client.connect(this.transport);
  }

  async call() {
    const answers = [];
    for (let number = 0; number < CALLS; number++) {
      answers.push((await this.client.callTool({ name: 'count', arguments: {} })).structuredContent);
    }
    return answers;
  }

  async said(deed) {
    try {
      return { answers: await deed() };
    } catch (error) {
      return { error: String(error), code: error.code };
    }
  }
}

const guests = Array.from({ length: Number(count) }, () => new Guest());
const visits = guests.map((guest) => guest.said(async () => (await guest.come(), guest.call())));
for (const visit of await Promise.all(visits)) console.log(JSON.stringify(visit));
for await (const _ of createInterface({ input: process.stdin })) {
  for (const guest of guests) {
    const before = await guest.said(() => guest.call());
    const after = await guest.said(async () => (await guest.come(), guest.call()));
    await guest.transport.terminateSession().catch((error) => { after.error = String(error); });
    console.log(JSON.stringify({ before, after }));
  }
  process.exit(0);
}
