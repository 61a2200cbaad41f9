/** Small pieces of page. Text becomes text here, never HTML. */

export const $ = (selector) => document.querySelector(selector);

/** Make an element: `el('p.note', { title: 'x' }, 'text', child)`. */
export function el(kind, properties = {}, ...children) {
  const [tag, ...classes] = kind.split('.');
  const element = document.createElement(tag);
  element.classList.add(...classes);
  Object.assign(element, properties);
  element.append(...children.filter((child) => child !== null));
  return element;
}

/** Make `parent` hold exactly these elements, in order. Those that are in place already are not touched. */
export function arrange(parent, elements) {
  const wanted = new Set(elements);
  for (const child of [...parent.children]) if (!wanted.has(child)) child.remove();
  elements.forEach((element, index) => {
    if (parent.children[index] !== element) parent.insertBefore(element, parent.children[index] ?? null);
  });
}

/** Letters and a hue that stand for somebody: the same on every screen. */
export function avatar(user, name, element = el('span.avatar', { ariaHidden: 'true' })) {
  let hash = 7;
  for (const sign of user) hash = (hash * 31 + sign.codePointAt(0)) >>> 0;
  element.style.setProperty('--hue', hash % 360);
  element.textContent = name.split(/\s+/).map((word) => [...word][0] ?? '').slice(0, 2).join('').toUpperCase();
  return element;
}
