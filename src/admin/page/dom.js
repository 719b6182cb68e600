// Elements are made once and then changed where they are, so that focus, selection and scroll
// position stay, nothing flickers, and nothing is done where nothing has changed.

const byId = (id) => document.getElementById(id);

function setText(node, value) {
  if (node.textContent !== value) node.textContent = value;
}

function setAttribute(node, name, value) {
  if (node.getAttribute(name) !== value) node.setAttribute(name, value);
}

// Attributes whose value is `null` are left out; children are elements or text.
function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null) node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const listed = new WeakMap();

// Makes the children of `parent` those of `items`, in order. `make` returns an element with an
// `update` function of its own, which gets the item. Elements whose place did not change are
// not moved: that would take the focus away.
function keep(parent, items, keyOf, make) {
  const before = listed.get(parent) ?? new Map();
  const after = new Map();
  for (const item of items) after.set(keyOf(item), before.get(keyOf(item)) ?? make(item));
  const focus = document.activeElement;
  let lost = -1;
  for (const [key, node] of before) {
    if (after.has(key)) continue;
    if (node.contains(focus)) lost = [...parent.children].indexOf(node);
    node.remove();
  }
  let place = parent.firstChild;
  for (const node of after.values()) {
    if (node === place) place = place.nextSibling;
    else parent.insertBefore(node, place);
  }
  for (const item of items) after.get(keyOf(item)).update(item);
  listed.set(parent, after);
  if (lost >= 0) focusNear(parent, lost);
}

// The focused element is gone: its neighbour gets the focus, so that keyboard users stay there.
function focusNear(parent, index) {
  const row = parent.children[Math.min(index, parent.children.length - 1)];
  const heading = parent.closest("section, dialog").querySelector("h2[tabindex]");
  (row?.querySelector("a, button") ?? heading)?.focus();
}

// The cells of a row of a table, by the names of their columns; on narrow screens those of
// numbers stand before them.
function row(columns) {
  const cells = columns.map(([label, kind]) =>
    element("td", { role: "cell", "data-label": label, class: kind }));
  return [element("tr", { role: "row" }, ...cells), cells];
}

// A link that opens a session; `live.js` does what it says.
function sessionLink(id) {
  return element("a", { href: `#session=${id}`, "data-session": id }, `#${id}`);
}

// A line with a name, its meaning, and a number, in red if it is a loss.
function countLine(item) {
  const number = element("span");
  const name = element("span", {}, item.name);
  if (item.note) name.append(element("span", { class: "note" }, item.note));
  const node = element("li", { "data-name": item.name }, name, number);
  node.update = ({ value, isLoss }) => {
    setText(number, count(value));
    setAttribute(number, "class", value === 0 ? "none" : isLoss ? "loss" : "");
  };
  return node;
}

// A line with a bar: the used share of a limit.
function barLine(item) {
  const number = element("span");
  const fill = element("div");
  const bar = element("div", { class: "bar" }, fill);
  const node = element("li", { "data-name": item.name }, element("span", {}, item.name), number, bar);
  node.update = ({ text, share }) => {
    setText(number, text);
    bar.hidden = share === null;
    fill.style.width = `${Math.min(100, 100 * (share ?? 0))}%`;
  };
  return node;
}

// A path in a cell, which is broken only where there is no room for more of it.
function showPath(cell, path) {
  cell.append(path);
  cell.style.minWidth = `min(${path.length}ch, 20rem)`;
}
