/** The chat's page: joins the connection, the conversations and what is shown. */

import { Realtime } from '/realtime.js';

import { Conversation } from './conversation.js';
import { $, arrange, avatar, el } from './dom.js';
import { me, recall, remember } from './me.js';
import { Timeline } from './timeline.js';

const TEXT_MAX = 2000;
const SAY_LEFT_BELOW = 200;
const RESUMED_SHOWN_MS = 4000;
const APP_NAME = document.title;

const client = new Realtime(undefined, { data: () => ({ key: me.key, name: me.name }), name: 'chat' });
const timeline = new Timeline();
const conversations = new Map();
let active = null;

// The connection

client.on('connected', ({ data }) => {
  me.user = data.user;
  showSlot(data);
  showMe();
  for (const [name, topic] of Object.entries(data.rooms)) {
    if (conversations.has(name)) continue;
    const conversation = new Conversation(client, name, topic, changed);
    conversation.isBeingRead = () => conversation === active && timeline.isBeingRead;
    conversations.set(name, conversation);
  }
  if (!active) enter();
});
client.on('message', showSlot); // we have moved to another process
client.on('state', ({ state }) => {
  document.body.dataset.connection = state;
  if (state === 'connected') showStatus('');
});
client.on('reconnecting', ({ attempt, delayMs }) => {
  showStatus(attempt > 3 ? `Reconnecting, attempt ${attempt}: in ${Math.ceil(delayMs / 1000)} s` : 'Reconnecting…');
});
client.on('resumed', ({ recovered }) => {
  const missed = [...conversations.values()].reduce((sum, { caughtUp }) => sum + caughtUp, 0);
  const what = missed === 1 ? 'one message' : `${missed} messages`;
  document.body.dataset.resumed = Number(document.body.dataset.resumed ?? 0) + 1;
  if (!recovered) showStatus('Back again. You were away for long: this is the latest.', RESUMED_SHOWN_MS);
  else showStatus(missed ? `Back again: caught up on ${what}.` : 'Back again: nothing was missed.', RESUMED_SHOWN_MS);
  for (const conversation of conversations.values()) conversation.resend();
});
client.on('disconnected', ({ reason }) => showStatus(`Disconnected: ${reason}. Reload the page to come back.`));

let statusTimer;
function showStatus(text, forMs = 0) {
  clearTimeout(statusTimer);
  $('.status').textContent = text;
  if (forMs) statusTimer = setTimeout(() => showStatus(''), forMs);
}

let servedBy = null;
function showSlot({ slot, pid }) {
  const moved = servedBy !== null && servedBy !== slot;
  $('.served .slot').textContent = moved ? `slot ${slot}, before by slot ${servedBy}` : `slot ${slot}`;
  $('.served .pid').textContent = `kill -9 ${pid}`;
  document.body.dataset.slot = slot;
  document.body.dataset.pid = pid;
  servedBy = slot;
}

// Conversations

function changed(conversation, what) {
  if (conversation === active) {
    if (what === 'messages') timeline.update();
    if (what === 'loaded') timeline.show(active);
    if (what === 'people') showPeople();
    if (what === 'typing' || what === 'messages') showTyping();
  }
  showRooms();
}

function enter(name = location.hash.slice(1)) {
  const next = conversations.get(name) ?? conversations.get(recall('chat.room')) ?? [...conversations.values()][0];
  if (!next || next === active) return;
  active?.side.unsubscribe();
  if (active) active.firstUnread = null;
  active = next;
  active.side.subscribe();
  remember('chat.room', active.name);
  $('h1').textContent = active.name;
  $('.topic').textContent = active.topic;
  $('#text').placeholder = `Write to ${active.name}`;
  timeline.show(active);
  showRooms();
  showPeople();
  showTyping();
  openDrawer(null);
}

function showRooms() {
  const entries = [...conversations.values()].map((conversation) => {
    const { name, unread } = conversation;
    const entry = (conversation.entry ??= el('li', {}, el('a', { href: `#${name}` }, el('span.room-name', {}, name))));
    const link = entry.firstChild;
    link.ariaCurrent = conversation === active ? 'page' : null;
    link.querySelector('.badge')?.remove();
    if (unread) link.append(el('span.badge', {}, `${unread}`, el('span.hidden', {}, ' unread')));
    return entry;
  });
  arrange($('.rooms'), entries);
  const unread = [...conversations.values()].reduce((sum, conversation) => sum + conversation.unread, 0);
  $('.open-rooms .dot').hidden = unread === 0;
  document.title = (unread ? `(${unread}) ` : '') + (active ? `${active.name} · ${APP_NAME}` : APP_NAME);
}

function showPeople() {
  const { people } = active;
  for (const count of document.querySelectorAll('.count')) count.textContent = people.length || '';
  $('.people ul').replaceChildren(...people.map(({ user, name, slots, tabs }) => {
    const where = [...slots].sort().map((slot) => el('span.slot-tag', {}, `slot ${slot}`));
    const notes = [user === me.user ? 'you' : null, tabs > 1 ? `${tabs} tabs` : null].filter(Boolean).join(', ');
    const person = el('li', {}, avatar(user, name), el('span.who', { dir: 'auto' }, name));
    if (notes) person.querySelector('.who').append(el('span.note', {}, ` ${notes}`));
    person.append(el('span.where', {}, ...where));
    return person;
  }));
}

function showTyping() {
  const names = active.typing;
  const text = names.length > 2 ? 'Several people are typing' :
    names.length ? `${names.join(' and ')} ${names.length > 1 ? 'are' : 'is'} typing` : '';
  if ($('.typing').textContent !== text) $('.typing').textContent = text;
}

window.addEventListener('hashchange', () => enter());
document.addEventListener('visibilitychange', () => {
  if (timeline.isBeingRead) active?.markRead();
});

// Writing

const text = $('#text');

function fit() {
  text.style.height = 'auto';
  text.style.height = `${text.scrollHeight + 2}px`;
  const left = TEXT_MAX - text.value.length;
  $('.left').textContent = left < SAY_LEFT_BELOW ? `${left} left` : '';
}

text.addEventListener('input', () => {
  fit();
  if (text.value.trim()) active?.typed();
});
text.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  $('.composer').requestSubmit();
});
$('.composer').addEventListener('submit', (event) => {
  event.preventDefault();
  const written = text.value.trim();
  if (!written || !active) return;
  text.value = '';
  fit();
  active.send(written);
  timeline.update({ isOurs: true });
  text.focus();
});

// Our name

function showMe() {
  $('.me-name').textContent = me.name;
  avatar(me.user, me.name, $('.me .avatar'));
}

/** Tell the server, and enter each room anew so that others see it. */
async function rename(name) {
  if (!name || name === me.name) return;
  me.name = name;
  showMe();
  if (client.state !== 'connected') return; // the next connect says it
  try {
    await client.rpc('rename', { name });
    for (const { room } of conversations.values()) {
      room.unsubscribe();
      room.subscribe();
    }
  } catch (error) {
    showStatus(`The new name was not taken: ${error.reason ?? error.message}`, RESUMED_SHOWN_MS);
  }
}

$('.me').addEventListener('click', () => {
  $('#name').value = me.name;
  $('.rename').showModal();
  $('#name').select();
});
$('#name').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter') return; // the first button of the form is Cancel
  event.preventDefault();
  $('.rename .strong').click();
});
$('.rename').addEventListener('close', (event) => {
  if (event.target.returnValue !== 'save') return;
  const name = $('#name').value.trim();
  remember('chat.name', name || me.name);
  rename(name);
});
window.addEventListener('storage', ({ key }) => {
  if (key === 'chat.name') rename(recall('chat.name')); // another tab of ours
});

// Drawers, on narrow pages

function openDrawer(name) {
  const was = document.body.dataset.drawer ?? '';
  if (was === (name ?? '')) return;
  document.body.dataset.drawer = name ?? '';
  $('.veil').hidden = !name;
  for (const which of ['rooms', 'people']) $(`.open-${which}`).ariaExpanded = String(which === name);
  if (name === 'rooms') ($('.rooms [aria-current]') ?? $('.rooms a'))?.focus();
  else if (!name) $(`.open-${was}`).focus();
}

for (const which of ['rooms', 'people']) {
  $(`.open-${which}`).addEventListener('click', () => {
    openDrawer(document.body.dataset.drawer === which ? null : which);
  });
}
$('.veil').addEventListener('click', () => openDrawer(null));
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && document.body.dataset.drawer) openDrawer(null);
  if (!event.altKey || !['ArrowUp', 'ArrowDown'].includes(event.key) || !active) return;
  event.preventDefault();
  const names = [...conversations.keys()];
  const step = event.key === 'ArrowUp' ? names.length - 1 : 1;
  location.hash = names[(names.indexOf(active.name) + step) % names.length];
});

showMe();
client.connect().catch(() => {}); // `disconnected` has said it
if (matchMedia('(pointer: fine)').matches) text.focus();
