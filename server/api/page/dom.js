// Elements of the page, made in code. Texts are only ever set as texts: there is no way here to set markup.

const SVG = "http://www.w3.org/2000/svg";
const FORBIDDEN = /^(on|style$|srcdoc$|href$)/i;

/** Returns an HTML element. `on` holds listeners by event; an attribute that is null or false is left out. */
export function h(tag, attributes = {}, ...children) {
  return filled(document.createElement(tag), attributes, children);
}

/** Returns an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  return filled(document.createElementNS(SVG, tag), attributes, children);
}

/** Takes everything out of an element and puts the children in; returns it. */
export function fill(element, ...children) {
  element.replaceChildren(...children.flat().filter(isThere));
  return element;
}

/** Returns a small drawing that needs no words: paths of a 24 x 24 grid, drawn as lines. */
export function icon(name) {
  const paths = ICONS[name].map((d) => svg("path", { d }));
  return svg("svg", { viewBox: "0 0 24 24", class: "icon", "aria-hidden": "true", focusable: "false" }, ...paths);
}

/** Returns a button. */
export function button(words, click, { kind = "", icon: drawing = null, ...attributes } = {}) {
  const content = [drawing && icon(drawing), h("span", {}, words)];
  return h("button", { type: "button", class: kind || null, on: { click }, ...attributes }, ...content);
}

/** Says something to those who listen to the page. */
export function announce(words) {
  const live = document.getElementById("live");
  if (live.textContent !== words) live.textContent = words;
}

/** Saves what a blob URL of this page stands for as a file. */
export function saveAs(url, name) {
  const link = h("a", { download: name });
  link.href = url;
  document.body.append(link);
  link.click();
  link.remove();
}

let lastId = 0;

/** Returns an id that no element has. */
export function newId(word) {
  lastId += 1;
  return `${word}-${lastId}`;
}

function filled(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (value !== null && value !== false && value !== undefined) {
      if (FORBIDDEN.test(name)) throw new Error(`the attribute ${name} is not set here`);
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...children.flat().filter(isThere));
  return element;
}

function isThere(child) {
  return child !== null && child !== undefined && child !== false;
}

const ICONS = {
  dice: ["M5 4h14a1 1 0 0 1 1 1v14a1 1 0 0 1-1 1H5a1 1 0 0 1-1-1V5a1 1 0 0 1 1-1z", "M8.5 8.5h.01", "M15.5 8.5h.01", "M12 12h.01", "M8.5 15.5h.01", "M15.5 15.5h.01"],
  play: ["M7 4.5v15l12-7.5z"],
  close: ["M6 6l12 12", "M18 6L6 18"],
  left: ["M15 5l-7 7 7 7"],
  right: ["M9 5l7 7-7 7"],
  picture: ["M4 5h16v14H4z", "M4 16l5-5 4 4 3-3 4 4", "M15.5 9h.01"],
  brush: ["M20 4L10 14", "M10 14c-3 0-4 2-4 6 4 0 6-1 6-4z"],
  save: ["M12 4v11", "M7 11l5 5 5-5", "M5 20h14"],
  plus: ["M12 5v14", "M5 12h14"],
  again: ["M4 12a8 8 0 1 0 2.5-5.8", "M4 4v4.5h4.5"],
  edit: ["M5 19l1-4L16 5l3 3L9 18z"],
  copy: ["M9 9h11v11H9z", "M5 15H4V4h11v1"],
};
