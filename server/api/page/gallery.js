// The gallery: the pictures of the jobs that ended well, the newest first. One tile has the focus, and arrows move it.

import { call, thumbnailUrl } from "./api.js";
import { button, fill, h } from "./dom.js";
import { DRAGGED } from "./pictures.js";
import { ago, gist } from "./words.js";

const PAGE = 24;

/** The grid of pictures. Told what to do by `actions`: open(index), problem(error). */
export class Gallery {
  constructor(actions) {
    this.actions = actions;
    this.shots = []; // {job, file}, as they are shown
    this.next = null;
    this.tiles = new Map();
    this.grid = h("ul", { class: "tiles", "aria-label": "Pictures" });
    this.grid.addEventListener("keydown", (event) => this._key(event));
    this.more = button("Show more", () => this._more(), { hidden: true });
    this.words = h("p", { class: "hint" }, "Looking for pictures …");
    this.element = h("div", {}, this.words, this.grid, h("div", { class: "row centre" }, this.more));
    this.eyes = new IntersectionObserver((seen) => seen.filter((one) => one.isIntersecting).forEach((one) => this._load(one.target)), { rootMargin: "200px" });
  }

  /** Asks for the newest pictures; those that are shown stay. */
  async refresh() {
    try {
      const page = await call("GET", `/v1/jobs?state=succeeded&limit=${PAGE}`);
      const shots = shotsOf(page.items);
      const oldest = page.items.at(-1)?.id ?? "";
      const rest = page.next === null ? [] : this.shots.filter((shot) => shot.job.id < oldest);
      if (!rest.length) this.next = page.next;
      this.shots = [...shots, ...rest];
      this._draw();
    } catch (error) {
      this.words.textContent = "";
      this.actions.problem(error);
    }
  }

  /** Gives a tile the focus. */
  focus(index) {
    this._current(index)?.focus();
  }

  async _more() {
    try {
      const page = await call("GET", `/v1/jobs?state=succeeded&limit=${PAGE}&before=${this.next}`);
      const first = this.shots.length;
      this.shots.push(...shotsOf(page.items));
      this.next = page.next;
      this._draw();
      this.focus(first);
    } catch (error) {
      this.actions.problem(error);
    }
  }

  _draw() {
    const tiles = this.shots.map((shot) => this.tiles.get(shot.file.href) ?? this._tile(shot));
    const kept = new Set(this.shots.map((shot) => shot.file.href));
    for (const href of this.tiles.keys()) if (!kept.has(href)) this.tiles.delete(href);
    const focused = document.activeElement;
    fill(this.grid, ...tiles);
    if (this.grid.contains(focused)) focused.focus();
    else this._current(0, false);
    this.more.hidden = this.next === null;
    this.words.textContent = this.shots.length ? "" : "There are no pictures yet. They come here when jobs are done.";
    this.words.hidden = this.shots.length > 0;
  }

  _tile({ job, file }) {
    const about = gist(job.params) || job.workflow || "A picture";
    const image = h("img", { alt: `${about}, ${ago(job.finished ?? job.created)}`, width: file.width, height: file.height });
    const open = h("button", { type: "button", class: "tile", title: about, tabindex: "-1", draggable: "true" }, image);
    open.addEventListener("click", () => this.actions.open(this.shots.findIndex((shot) => shot.file.href === file.href)));
    open.addEventListener("dragstart", (event) => event.dataTransfer.setData(DRAGGED, file.href));
    const tile = h("li", { "data-href": file.href }, open);
    this.tiles.set(file.href, tile);
    this.eyes.observe(tile);
    return tile;
  }

  async _load(tile) {
    this.eyes.unobserve(tile);
    try {
      tile.querySelector("img").src = await thumbnailUrl(tile.dataset.href);
      tile.classList.add("loaded");
    } catch {
      tile.classList.add("gone");
    }
  }

  _key(event) {
    const tiles = [...this.grid.children];
    const at = tiles.findIndex((tile) => tile.contains(document.activeElement));
    const columns = tiles.filter((tile) => tile.offsetTop === tiles[0]?.offsetTop).length || 1;
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + columns, ArrowUp: at - columns, Home: 0, End: tiles.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    if (to >= 0 && to < tiles.length) this.focus(to);
  }

  /** Makes a tile the one that Tab leads to, and returns its button. */
  _current(index) {
    const buttons = [...this.grid.querySelectorAll("button")];
    buttons.forEach((one, place) => one.setAttribute("tabindex", place === index ? "0" : "-1"));
    return buttons[index];
  }
}

/** Returns the raster pictures of some jobs. */
export function shotsOf(jobs) {
  return jobs.flatMap((job) => Object.values(job.outputs).flat().filter((file) => file.width).map((file) => ({ job, file })));
}
