// Elements from plain calls, and a page that changes only where it differs.

const SVG = "http://www.w3.org/2000/svg";

// h("a", { href: "#/" }, "text", h("b")): null and false attributes and children are left out.
export function h(tag, attributes = {}, ...children) {
  return build(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return build(document.createElementNS(SVG, tag), attributes, children);
}

function build(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined && value !== false) {
      element.setAttribute(name, value === true ? "" : value);
    }
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

// Make the children of `target` like `fresh`. What is the same stays, with focus, scroll and input.
// data-key: the same thing wherever it moves. data-keep: its content is drawn by somebody else.
export function show(target, ...fresh) {
  const focused = document.activeElement;
  const wanted = document.createElement("div");
  build(wanted, {}, fresh);
  alignChildren(target, wanted);
  if (focused !== document.activeElement && focused?.isConnected) {
    focused.focus({ preventScroll: true }); // lost when its row moved
  }
}

function alignChildren(target, wanted) {
  const keyed = new Map();
  for (const child of target.children) {
    if (child.dataset?.key) keyed.set(child.dataset.key, child);
  }
  let place = target.firstChild;
  for (const child of [...wanted.childNodes]) {
    const key = child.dataset?.key;
    const match = key ? keyed.get(key) : place;
    if (match && sameKind(match, child)) {
      if (match !== place) target.insertBefore(match, place);
      align(match, child);
      place = match.nextSibling;
    } else {
      target.insertBefore(child, place);
    }
  }
  while (place) {
    const next = place.nextSibling;
    place.remove();
    place = next;
  }
}

function sameKind(old, fresh) {
  return old.nodeName === fresh.nodeName && old.dataset?.key === fresh.dataset?.key;
}

function align(old, fresh) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== fresh.data) old.data = fresh.data;
    return;
  }
  for (const { name } of [...old.attributes]) {
    // what a person opened stays open; a chart's own size stays its own
    if (!fresh.hasAttribute(name) && name !== "open" && name !== "style") old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  if (!("keep" in old.dataset)) alignChildren(old, fresh);
}
