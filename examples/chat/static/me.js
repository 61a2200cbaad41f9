/** Who this browser is: a secret key that proves it, and a name. Kept in localStorage, so shared by its tabs. */

const MOODS = ['Quiet', 'Early', 'Brave', 'Merry', 'Gentle', 'Curious', 'Patient', 'Swift'];
const BIRDS = ['Heron', 'Plover', 'Tern', 'Gull', 'Curlew', 'Puffin', 'Eider', 'Osprey'];
const any = (list) => list[Math.floor(Math.random() * list.length)];

/** An id or key that nobody else draws. */
export function draw() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}

/** Read JSON that this page stored; a browser that keeps nothing is no reason to fail. */
export function recall(name, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(name, JSON.stringify(value));
  } catch {
    // A private window: it is remembered for as long as the page lives.
  }
}

export const me = {
  key: recall('chat.key') ?? draw(),
  name: recall('chat.name') ?? `${any(MOODS)} ${any(BIRDS)}`,
  user: '', // the server says it
};
remember('chat.key', me.key);
remember('chat.name', me.name);
