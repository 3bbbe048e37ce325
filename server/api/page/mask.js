// A mask, painted on a picture: what is painted becomes transparent in the PNG that comes out, and every colour stays.
//
// By pointer or by keyboard: arrows move the brush, Space dabs, Shift and arrows draw.

import { announce, button, h } from "./dom.js";
import { readPixels } from "./pixels.js";
import { encodePng } from "./png.js";

const UNDO = 12;
const MARK = "#e0457b";

/** Lets a person paint on a picture; returns the PNG with the mask as its alpha, or null if they think better of it.
 *
 * alone: the PNG holds the mask and not the picture: white and transparent where it was painted, so that it is the same mask
 * in each of its channels.
 */
export async function paintMask(blob, { alone = false } = {}) {
  return new Editor(await readPixels(blob), alone).show();
}

class Editor {
  constructor(pixels, alone) {
    this.alone = alone;
    this.width = pixels.width;
    this.height = pixels.height;
    this.pixels = pixels;
    this.brush = Math.max(4, Math.round(Math.min(this.width, this.height) / 10));
    this.erasing = false;
    this.at = { x: this.width / 2, y: this.height / 2 };
    this.undone = [];
    this.picture = canvasOf(this.width, this.height);
    this.mask = canvasOf(this.width, this.height);
    this.paper = this.mask.getContext("2d", { willReadFrequently: true });
    this._build();
    this.picture.getContext("2d").putImageData(opaque(this.pixels), 0, 0);
    this._maskFromAlpha();
  }

  /** Returns the promise of the PNG, or of null. */
  show() {
    document.body.append(this.dialog);
    this.dialog.showModal();
    this.mask.focus();
    this._moveCursor();
    return new Promise((resolve) => {
      this.dialog.addEventListener("close", () => {
        this.dialog.remove();
        resolve(this.dialog.returnValue === "use" ? this._merged() : null);
      });
    });
  }

  _build() {
    const size = h("input", { type: "range", min: 1, max: Math.max(8, Math.round(Math.min(this.width, this.height) / 2)), value: this.brush });
    size.addEventListener("input", () => this._setBrush(Number(size.value)));
    this.size = size;
    this.paintTool = button("Paint", () => this._erase(false), { icon: "brush", "aria-pressed": "true" });
    this.eraseTool = button("Erase", () => this._erase(true), { "aria-pressed": "false" });
    const tools = h(
      "div",
      { class: "row tools", role: "toolbar", "aria-label": "Tools" },
      this.paintTool,
      this.eraseTool,
      h("label", { class: "brush-size" }, "Brush", size),
      button("Undo", () => this._undo()),
      button("Invert", () => this._invert()),
      button("Clear", () => this._clear()),
    );
    this.cursor = h("div", { class: "cursor", "aria-hidden": "true" });
    for (const [name, value] of Object.entries({
      tabindex: "0",
      role: "application",
      "aria-label": "Picture to paint the mask on. Arrows move the brush, Space paints, Shift and arrows draw, E changes between paint and erase, plus and minus change the brush.",
    })) {
      this.mask.setAttribute(name, value);
    }
    this.mask.className = "mask";
    const easel = h("div", { class: "easel" }, this.picture, this.mask, this.cursor);
    const close = (value) => this.dialog.close(value);
    this.dialog = h(
      "dialog",
      { class: "painter", "aria-labelledby": "painter-title" },
      h("h2", { id: "painter-title" }, "Paint what is to change"),
      tools,
      h("div", { class: "easel-frame" }, easel),
      h("p", { class: "hint" }, "Paint with the mouse, a pen or a finger. By keyboard: arrows move, Space paints, E erases."),
      h("div", { class: "row end" }, button("Cancel", () => close("")), button("Use this mask", () => close("use"), { kind: "primary" })),
    );
    this._listen();
  }

  _listen() {
    this.mask.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.preventDefault();
      this.mask.focus();
      this.mask.setPointerCapture(event.pointerId);
      this._remember();
      this._go(this._place(event), true, true);
    });
    this.mask.addEventListener("pointermove", (event) => {
      for (const one of event.getCoalescedEvents?.() ?? [event]) this._go(this._place(one), this.mask.hasPointerCapture(event.pointerId));
    });
    this.mask.addEventListener("keydown", (event) => this._key(event));
    this.dialog.addEventListener("keydown", (event) => {
      if ((event.ctrlKey || event.metaKey) && event.key.toLowerCase() === "z") {
        event.preventDefault();
        this._undo();
      }
    });
  }

  _key(event) {
    const step = Math.max(1, this.brush / 2);
    const moves = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    const act = {
      " ": () => {
        this._remember();
        this._go(this.at, true, true);
      },
      e: () => this._erase(!this.erasing),
      "+": () => this._setBrush(this.brush * 1.25 + 1),
      "-": () => this._setBrush(this.brush / 1.25 - 1),
    }[event.key];
    if (event.ctrlKey || event.metaKey || !(moves[event.key] || act)) return;
    event.preventDefault();
    if (act) return void act();
    const [dx, dy] = moves[event.key];
    if (event.shiftKey && !event.repeat) this._remember();
    const x = Math.min(this.width, Math.max(0, this.at.x + dx));
    const y = Math.min(this.height, Math.max(0, this.at.y + dy));
    this._go({ x, y }, event.shiftKey);
  }

  _go(to, paints, begins = false) {
    if (paints) {
      const from = begins ? to : this.at;
      this.paper.globalCompositeOperation = this.erasing ? "destination-out" : "source-over";
      this.paper.strokeStyle = MARK;
      this.paper.lineCap = "round";
      this.paper.lineJoin = "round";
      this.paper.lineWidth = this.brush;
      this.paper.beginPath();
      this.paper.moveTo(from.x, from.y);
      this.paper.lineTo(to.x + 0.01, to.y);
      this.paper.stroke();
    }
    this.at = to;
    this._moveCursor();
  }

  _place(event) {
    const box = this.mask.getBoundingClientRect();
    return {
      x: ((event.clientX - box.left) / box.width) * this.width,
      y: ((event.clientY - box.top) / box.height) * this.height,
    };
  }

  _moveCursor() {
    const scale = this.mask.clientWidth / this.width;
    const size = this.brush * scale;
    Object.assign(this.cursor.style, {
      width: `${size}px`,
      height: `${size}px`,
      transform: `translate(${this.at.x * scale - size / 2}px, ${this.at.y * scale - size / 2}px)`,
    });
  }

  _setBrush(size) {
    this.brush = Math.min(Number(this.size.max), Math.max(1, Math.round(size)));
    this.size.value = String(this.brush);
    this._moveCursor();
  }

  _erase(erasing) {
    this.erasing = erasing;
    this.paintTool.setAttribute("aria-pressed", String(!erasing));
    this.eraseTool.setAttribute("aria-pressed", String(erasing));
    announce(erasing ? "Erasing" : "Painting");
  }

  _remember() {
    this.undone.push(this.paper.getImageData(0, 0, this.width, this.height));
    if (this.undone.length > UNDO) this.undone.shift();
  }

  _undo() {
    const before = this.undone.pop();
    if (before) this.paper.putImageData(before, 0, 0);
  }

  _clear() {
    this._remember();
    this.paper.clearRect(0, 0, this.width, this.height);
  }

  _invert() {
    this._remember();
    this.paper.globalCompositeOperation = "xor";
    this.paper.fillStyle = MARK;
    this.paper.fillRect(0, 0, this.width, this.height);
  }

  _maskFromAlpha() {
    const { data } = this.pixels;
    const mask = this.paper.createImageData(this.width, this.height);
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(MARK.slice(at, at + 2), 16));
    for (let at = 0; at < data.length; at += 4) mask.data.set([red, green, blue, 255 - data[at + 3]], at);
    this.paper.putImageData(mask, 0, 0);
  }

  _merged() {
    const painted = this.paper.getImageData(0, 0, this.width, this.height).data;
    const rgba = new Uint8Array(this.pixels.data);
    for (let at = 3; at < rgba.length; at += 4) {
      if (this.alone) rgba.fill(painted[at], at - 3, at);
      rgba[at] = 255 - painted[at];
    }
    return encodePng(this.width, this.height, rgba);
  }
}

function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

function opaque(pixels) {
  const copy = new ImageData(new Uint8ClampedArray(pixels.data), pixels.width, pixels.height);
  for (let at = 3; at < copy.data.length; at += 4) copy.data[at] = 255;
  return copy;
}
