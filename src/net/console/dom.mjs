// Small tools on the document. Text goes in as text, never as markup.

/** @returns the element with this id, which the page has */
export const $ = (id) => document.getElementById(id);

/** An element with properties (`class`, `data-…`, `aria-…` as attributes) and children: elements or text. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

/** Sets text only when it changed: what did not change is not announced, selected text stays. */
export function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** State as text and tone: `good`, `warn`, `bad`, `info`, `idle`. */
export function badge(element, text, tone) {
  element.classList.add("badge");
  element.dataset.tone = tone;
  write(element, text);
  return element;
}

/**
 * Makes the children of `parent` match `items`, by key: what stays keeps its element, and with it the focus.
 * @param make (item) → element
 * @param fill (element, item): brings it up to date
 */
export function each(parent, items, keyOf, make, fill) {
  const old = new Map([...parent.children].map((element) => [element.dataset.key, element]));
  items.forEach((item, at) => {
    const key = String(keyOf(item));
    let element = old.get(key);
    if (element) old.delete(key);
    else {
      element = make(item);
      element.dataset.key = key;
    }
    fill(element, item);
    // Moving an element takes the focus from it, so only those move that must.
    if (parent.children[at] !== element) parent.insertBefore(element, parent.children[at] ?? null);
  });
  for (const element of old.values()) element.remove();
}

/** A table row; its cells have these classes, the first one is its heading. */
export function row(classes) {
  return make("tr", {}, ...classes.map((className, at) => (at === 0 ? make("th", { scope: "row", className }) : make("td", { className }))));
}
