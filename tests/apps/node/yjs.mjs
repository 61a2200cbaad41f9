// Editors of Yjs documents: `node yjs.mjs URL DOCUMENT…`, two for each document. Says one line of JSON of each document,
// once both editors have seen what both have written.
import * as Y from 'yjs';
import { WebsocketProvider } from 'y-websocket';
import WebSocket from 'ws';

const [url, ...names] = process.argv.slice(2);

function edit(name, who) {
  const doc = new Y.Doc();
  const provider = new WebsocketProvider(url, name, doc, { WebSocketPolyfill: WebSocket, disableBc: true });
  doc.getMap('seen').set(who, name);
  const both = new Promise((resolve) => {
    const look = () => { if (doc.getMap('seen').size === 2) resolve(); };
    doc.getMap('seen').observe(look);
    look();
  });
  return { both, provider };
}

const editors = names.map((name) => [edit(name, 'ada'), edit(name, 'ben')]);
await Promise.all(editors.flat().map((editor) => editor.both));
for (const name of names) console.log(JSON.stringify(name));
process.stdin.on('end', () => process.exit(0)).resume(); // they stay until nobody asks any more
