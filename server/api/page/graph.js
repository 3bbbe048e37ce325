// A graph as a picture: boxes in layers from top to bottom, and what becomes of each while it runs. Knows no server.
//
// A link that spans layers goes through a gap in each of them, so that no line crosses a box. Two halves: `layOut` computes
// places from nodes alone, GraphView draws them.

import { fill, h, svg } from "./dom.js";
import { counted, duration } from "./words.js";

export const MAX_DRAWN = 160;

const BOX = { width: 122, height: 44 };
const GAP = { x: 10, y: 30, wire: 6 };
const WIRE_PULL = 0.2; // of a line against that of a box
const MARGIN = 4;
const SWEEPS = 6;

/** Returns the layers of a graph, top first: each a list of {id, wire}, where a wire is the way of a long link through a layer. */
export function layersOf(nodes) {
  const depth = depths(nodes);
  const layers = [];
  const put = (layer, item) => (layers[layer] ??= []).push(item);
  for (const node of nodes) put(depth.get(node.id), { id: node.id, wire: false });
  for (const node of nodes) {
    const readers = nodes.filter((other) => other.sources.includes(node.id)).map((other) => depth.get(other.id));
    const last = Math.max(0, ...readers);
    for (let layer = depth.get(node.id) + 1; layer < last; layer += 1) put(layer, { id: node.id, wire: true });
  }
  return ordered(layers, nodes, depth);
}

/** Returns the places of boxes and the courses of links, in pixels, and how large it all is. */
export function layOut(nodes) {
  const depth = depths(nodes);
  const layers = layersOf(nodes);
  const at = placesOf(layers, nodes, depth);
  const y = (layer) => MARGIN + layer * (BOX.height + GAP.y);
  const centre = (id, layer) => at.get(keyOf(id, layer));
  const width = Math.max(...[...at].map(([key, x]) => x + (key.startsWith("box ") ? BOX.width / 2 : 0)), BOX.width) + MARGIN;
  const boxes = nodes.map(({ id }) => ({ id, x: centre(id, depth.get(id)) - BOX.width / 2, y: y(depth.get(id)) }));
  const links = nodes.flatMap(({ id, sources }) =>
    sources.filter((source) => depth.has(source)).map((source) => {
      const points = [[centre(source, depth.get(source)), y(depth.get(source)) + BOX.height]];
      for (let layer = depth.get(source) + 1; layer < depth.get(id); layer += 1) {
        points.push([centre(source, layer), y(layer)], [centre(source, layer), y(layer) + BOX.height]);
      }
      points.push([centre(id, depth.get(id)), y(depth.get(id))]);
      return { from: source, to: id, points };
    }),
  );
  return { width, height: y(layers.length) - GAP.y + MARGIN, boxes, links };

  function keyOf(id, layer) {
    return depth.get(id) === layer ? `box ${id}` : `wire ${layer} ${id}`;
  }
}

/** A drawn graph. `update` is told what became of its nodes. */
export class GraphView {
  constructor() {
    this.list = h("ul", { class: "unseen" });
    this.frame = h("div", { class: "graph-frame" });
    this.legend = h("p", { class: "legend", "aria-hidden": "true" });
    this.element = h("figure", { class: "graph" }, this.frame, this.legend, this.list);
    this.boxes = new Map();
  }

  /** Draws other nodes. */
  draw(nodes) {
    this.nodes = nodes;
    this.boxes.clear();
    fill(this.legend, ...["computed", "cached", "running", "waiting"].map((state) => h("span", { "data-state": STATE_OF[state] }, state)));
    this.legend.hidden = nodes.length > MAX_DRAWN;
    if (nodes.length > MAX_DRAWN) {
      this.words = h("p", { class: "hint" });
      fill(this.frame, this.words);
      return;
    }
    const { width, height, boxes, links } = layOut(nodes);
    this.links = links.map((link) => ({ ...link, path: svg("path", { d: courseOf(link.points), class: "link" }) }));
    const types = new Map(nodes.map((node) => [node.id, node]));
    const drawn = boxes.map((box) => this._box(box, types.get(box.id)));
    this.picture = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "img" }, ...this.links.map((link) => link.path), ...drawn);
    fill(this.frame, this.picture);
  }

  /** Shows states by node: {state, words, part}; part is what is done of a node that runs, from 0 to 1. */
  update(states) {
    const of = (id) => states.get(id) ?? { state: "waiting", words: "" };
    const count = (...wanted) => this.nodes.filter(({ id }) => wanted.includes(of(id).state)).length;
    const summary = `${count("done", "cached")} of ${counted(this.nodes.length, "node")} done`;
    if (this.nodes.length > MAX_DRAWN) {
      this.words.textContent = `The graph has ${this.nodes.length} nodes, too many to draw. ${summary}.`;
      return;
    }
    this.picture.setAttribute("aria-label", `The graph: ${summary}.`);
    for (const [id, box] of this.boxes) show(box, of(id));
    for (const link of this.links) link.path.classList.toggle("used", ["done", "cached"].includes(of(link.from).state));
    fill(this.list, ...this.nodes.map(({ id, type }) => h("li", {}, `${id}, ${type}: ${of(id).words || of(id).state}`)));
  }

  _box({ id, x, y }, { type, repeated }) {
    const title = svg("title", {}, `${id}: ${type}`);
    const words = svg("text", { x: x + 11, y: y + 34, class: "type" });
    const mark = svg("text", { x: x + BOX.width - 9, y: y + 18, class: "mark", "text-anchor": "end" });
    const done = svg("rect", { x: x + 6, y: y + BOX.height - 4.5, height: 2.5, width: 0, rx: 1.25, class: "part" });
    const shape = { x: x + 0.75, y: y + 0.75, width: BOX.width - 1.5, height: BOX.height - 1.5, rx: 9 };
    const shadow = repeated ? svg("rect", { ...shape, x: x + 4, y: y + 4, class: "copy" }) : null;
    const group = svg(
      "g",
      { class: "node", "data-node": id, "data-state": "waiting" },
      title,
      shadow,
      svg("rect", { ...shape, class: "shape" }),
      svg("text", { x: x + 11, y: y + 18, class: "name" }, cut(id, 13)),
      words,
      mark,
      done,
    );
    this.boxes.set(id, { group, title, words, mark, done, id, type });
    return group;
  }
}

const MARKS = { done: "✓", cached: "◆", failed: "✕", skipped: "–", running: "", waiting: "" };
const STATE_OF = { computed: "done", cached: "cached", running: "running", waiting: "waiting" };

/** Returns what a box says of a node that was computed. */
export function doneWords(seconds) {
  return seconds >= 0.05 ? duration(seconds) : "";
}

function show({ group, title, words, mark, done, id, type }, { state, words: said, part }) {
  if (group.getAttribute("data-state") !== state) group.setAttribute("data-state", state);
  const beside = state === "running" || state === "done" ? said : "";
  const room = 18 - beside.length - (beside ? 3 : 0);
  setText(words, beside ? (room > 5 ? `${cut(type, room)} · ${beside}` : beside) : cut(type, 18));
  setText(mark, MARKS[state] ?? "");
  setText(title, `${id}: ${type}${said ? `, ${said}` : ""}`);
  done.setAttribute("width", state === "running" && part ? (BOX.width - 12) * Math.min(1, part) : 0);
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function cut(text, length) {
  return text.length <= length ? text : `${text.slice(0, length - 1)}…`;
}

function courseOf(points) {
  let course = `M${points[0][0]},${points[0][1]}`;
  for (let index = 1; index < points.length; index += 1) {
    const [[x1, y1], [x2, y2]] = [points[index - 1], points[index]];
    const middle = (y1 + y2) / 2;
    course += x1 === x2 ? ` L${x2},${y2}` : ` C${x1},${middle} ${x2},${middle} ${x2},${y2}`;
  }
  return course;
}

/** Returns the layer of each node: one below the lowest that it reads; one that reads nothing, just above its first reader. */
function depths(nodes) {
  const known = new Map(nodes.map((node) => [node.id, node]));
  const depth = new Map(nodes.map((node) => [node.id, 0]));
  for (let pass = 0; pass < nodes.length; pass += 1) {
    let changed = false;
    for (const { id, sources } of nodes) {
      const least = Math.max(0, ...sources.filter((source) => known.has(source)).map((source) => depth.get(source) + 1));
      if (least > depth.get(id) && least <= nodes.length) {
        depth.set(id, least);
        changed = true;
      }
    }
    if (!changed) break;
  }
  for (const { id, sources } of nodes) {
    const readers = nodes.filter((other) => other.sources.includes(id)).map((other) => depth.get(other.id));
    if (!sources.some((source) => known.has(source)) && readers.length) depth.set(id, Math.max(0, Math.min(...readers) - 1));
  }
  const lowest = Math.min(...depth.values(), Infinity);
  if (lowest > 0 && lowest < Infinity) for (const [id, layer] of depth) depth.set(id, layer - lowest);
  return depth;
}

/** Returns the layers with their items in an order in which few links cross. */
function ordered(layers, nodes, depth) {
  const sources = new Map(nodes.map((node) => [node.id, node.sources]));
  const readers = new Map(nodes.map((node) => [node.id, nodes.filter((other) => other.sources.includes(node.id))]));
  const above = (item) => (item.wire ? [item.id] : sources.get(item.id));
  const below = (item, layer) => {
    const later = readers.get(item.id).filter((other) => depth.get(other.id) > layer);
    const names = later.filter((other) => depth.get(other.id) === layer + 1).map((other) => other.id);
    return later.some((other) => depth.get(other.id) > layer + 1) ? [...names, item.id] : names;
  };
  for (let sweep = 0; sweep < SWEEPS; sweep += 1) {
    for (let index = 1; index < layers.length; index += 1) sort(layers[index], layers[index - 1], above);
    for (let index = layers.length - 2; index >= 0; index -= 1) sort(layers[index], layers[index + 1], (item) => below(item, index));
  }
  for (let index = 1; index < layers.length; index += 1) sort(layers[index], layers[index - 1], above);
  return layers;
}

function sort(layer, fixed, neighbours) {
  const place = new Map(fixed.map((item, index) => [item.id, index / Math.max(1, fixed.length - 1)]));
  const weight = new Map(
    layer.map((item, index) => {
      const places = neighbours(item).filter((id) => place.has(id)).map((id) => place.get(id));
      const mean = places.reduce((sum, one) => sum + one, 0) / places.length;
      return [item, places.length ? mean : index / Math.max(1, layer.length - 1)];
    }),
  );
  layer.sort((one, other) => weight.get(one) - weight.get(other));
}

/** Returns the centre of each item from the left edge: near what it is linked to, and clear of its neighbours. */
function placesOf(layers, nodes, depth) {
  const key = (item, layer) => (item.wire ? `wire ${layer} ${item.id}` : `box ${item.id}`);
  const room = (item) => (item.wire ? GAP.wire : BOX.width);
  const at = new Map();
  layers.forEach((layer, index) => {
    let x = 0;
    for (const item of layer) {
      at.set(key(item, index), x + room(item) / 2);
      x += room(item) + GAP.x;
    }
    for (const item of layer) at.set(key(item, index), at.get(key(item, index)) - (x - GAP.x) / 2);
  });
  const linked = neighboursByKey(layers, nodes, depth, key);
  for (let sweep = 0; sweep < 12; sweep += 1) {
    layers.forEach((layer, index) => {
      for (const item of layer) {
        const near = linked.get(key(item, index)).map((other) => [at.get(other), other.startsWith("wire ") ? WIRE_PULL : 1]);
        const pull = near.reduce((sum, [, weight]) => sum + weight, 0);
        if (pull) at.set(key(item, index), near.reduce((sum, [x, weight]) => sum + x * weight, 0) / pull);
      }
      spread(layer.map((item) => ({ key: key(item, index), room: room(item) })), at);
    });
  }
  const left = Math.min(...layers.flatMap((layer, index) => layer.map((item) => at.get(key(item, index)) - room(item) / 2)));
  for (const [name, x] of at) at.set(name, x - left + MARGIN);
  return at;
}

function neighboursByKey(layers, nodes, depth, key) {
  const linked = new Map(layers.flatMap((layer, index) => layer.map((item) => [key(item, index), []])));
  const join = (one, other) => {
    linked.get(one).push(other);
    linked.get(other).push(one);
  };
  for (const { id, sources } of nodes) {
    for (const source of sources.filter((one) => depth.has(one))) {
      let before = key({ id: source, wire: false }, depth.get(source));
      for (let layer = depth.get(source) + 1; layer < depth.get(id); layer += 1) {
        const next = key({ id: source, wire: true }, layer);
        if (!linked.get(before).includes(next)) join(before, next);
        before = next;
      }
      join(before, key({ id, wire: false }, depth.get(id)));
    }
  }
  return linked;
}

/** Moves the items of a layer apart, from their middle outwards, so that none touches another. */
function spread(items, at) {
  const wanted = items.map((item) => at.get(item.key));
  const gap = (one, other) => (one.room + other.room) / 2 + GAP.x;
  const right = [...wanted];
  for (let index = 1; index < items.length; index += 1) right[index] = Math.max(right[index], right[index - 1] + gap(items[index - 1], items[index]));
  const left = [...wanted];
  for (let index = items.length - 2; index >= 0; index -= 1) left[index] = Math.min(left[index], left[index + 1] - gap(items[index], items[index + 1]));
  items.forEach((item, index) => at.set(item.key, (left[index] + right[index]) / 2));
}
