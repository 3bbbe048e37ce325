// The field of a picture: dropped, pasted, chosen from a dialog or taken from the gallery; sent to the server at once and known
// by its content id from then on. A mask may be painted on it.

import { Problem, pictureBlob, pictureUrl, upload } from "./api.js";
import { announce, button, h, icon, newId } from "./dom.js";
import { framed } from "./fields.js";
import { paintMask } from "./mask.js";
import { labelOf } from "./words.js";

const TAKEN = new Set(["image/png", "image/jpeg", "image/webp", "image/gif"]);

/** What a picture of the gallery is dragged as: its address on this server. */
export const DRAGGED = "application/x-latentgraph-picture";

/** Returns the field of a parameter of type image_file or mask_file. */
export function pictureField(name, spec) {
  return new PictureField(name, spec);
}

class PictureField {
  constructor(name, spec) {
    this.spec = spec;
    this.isMask = spec.type === "mask_file";
    this.subject = () => (this.isMask ? "" : this.value); // the picture that a mask is painted on
    this.value = "";
    this.waiting = null; // the promise of an upload
    this.failed = ""; // why the latest picture did not arrive
    this.turn = 0; // of the latest picture, so that a slow one does not replace it
    this._build(name);
    this.write(spec.default);
  }

  get control() {
    return this.choose;
  }

  read() {
    if (this.failed) return { problem: this.failed };
    return this.value ? { value: this.value } : this.spec.required ? {} : { problem: "Choose a picture." };
  }

  write(value) {
    this.turn += 1;
    this.waiting = null;
    this.failed = "";
    this._show(value ?? "");
  }

  focus() {
    this.choose.focus();
  }

  /** Takes the field of the picture that this one is a mask of. */
  maskOf(field) {
    this.subject = () => field.value;
    field.element.addEventListener("change", () => this.refresh());
  }

  /** Offers to paint a mask if there is a picture to paint it on. */
  refresh() {
    this.paint.hidden = !this.subject().startsWith("sha256:");
  }

  /** Takes a picture's bytes. */
  take(blob) {
    const turn = (this.turn += 1);
    this._busy("Sending the picture");
    const sending = this._send(blob)
      .then((stored) => {
        if (turn !== this.turn) return;
        this.waiting = null;
        this._show(stored.id, stored);
        announce("The picture is there.");
        this.element.dispatchEvent(new Event("change", { bubbles: true }));
      })
      .catch((error) => {
        if (turn !== this.turn) return;
        this.waiting = null;
        this._show(this.value);
        this._refuse(error);
      });
    this.waiting = sending;
    return sending;
  }

  _build(name) {
    this.image = h("img", { alt: "", hidden: true });
    this.words = h("p", { class: "picture-words" });
    this.input = h("input", { type: "file", accept: "image/*", class: "unseen", tabindex: "-1", "aria-hidden": "true" });
    this.input.addEventListener("change", () => {
      if (this.input.files.length) this.take(this.input.files[0]);
      this.input.value = "";
    });
    this.choose = button("Choose a picture", () => this.input.click(), { icon: "picture" });
    this.paint = button("Paint a mask", () => this._paint(), { icon: "brush", hidden: true });
    const label = { role: "group", class: "drop", id: newId("picture") };
    this.zone = h("div", label, h("div", { class: "shown" }, this.image, icon("picture")), this.words, h("div", { class: "row" }, this.choose, this.paint), this.input);
    this.element = framed(name, this.spec, this.zone, { group: true });
    this.zone.setAttribute("aria-label", labelOf(name));
    this.wrong = this.element.querySelector(".wrong");
    this._listen();
  }

  _listen() {
    for (const kind of ["dragenter", "dragover"]) {
      this.zone.addEventListener(kind, (event) => {
        event.preventDefault();
        this.zone.classList.add("over");
      });
    }
    this.zone.addEventListener("dragleave", () => this.zone.classList.remove("over"));
    this.zone.addEventListener("drop", (event) => {
      event.preventDefault();
      this.zone.classList.remove("over");
      this._takeFrom(event.dataTransfer);
    });
    this.zone.addEventListener("paste", (event) => this._takeFrom(event.clipboardData));
  }

  _takeFrom(transfer) {
    const href = transfer.getData(DRAGGED);
    if (/^\/v1\/jobs\/[^?#]+/.test(href)) {
      pictureBlob(href).then((blob) => this.take(blob), (error) => this._refuse(error));
    } else if (transfer.files.length) {
      this.take(transfer.files[0]);
    } else {
      this._complain("That was no picture. Drop a PNG, JPEG, WebP or GIF file.");
    }
  }

  async _send(blob) {
    return upload(TAKEN.has(blob.type) ? blob : await asPng(blob));
  }

  /** A picture that did not arrive is a fault until another does: the one before is not meant any more. */
  _refuse(error) {
    this.failed = error.message;
    this._complain(error.message);
  }

  _busy(words) {
    this.failed = "";
    this._complain("");
    this.words.textContent = `${words} …`;
    this.zone.setAttribute("aria-busy", "true");
  }

  _show(value, stored = null) {
    this.value = value;
    this.zone.removeAttribute("aria-busy");
    this._complain("");
    const own = value.startsWith("sha256:");
    this.words.textContent = own ? sizeWords(stored) : value ? `${value}, if the server has it` : "Drop a picture here, or choose one.";
    this.choose.lastChild.textContent = value ? "Choose another" : "Choose a picture";
    this.refresh();
    this.zone.classList.toggle("filled", own);
    this.image.hidden = !own;
    if (own) this._load(value);
  }

  async _load(value) {
    try {
      const url = await pictureUrl(`/v1/files/${value}`);
      if (value !== this.value) return;
      this.image.src = url;
      this.image.alt = "The picture that was chosen";
    } catch (error) {
      this.image.hidden = true;
      this.words.textContent = error.message;
    }
  }

  async _paint() {
    try {
      const picture = await pictureBlob(`/v1/files/${this.subject()}`);
      const painted = await paintMask(picture, { alone: this.isMask });
      if (painted) await this.take(painted);
    } catch (error) {
      this._complain(error.message);
    }
    this.paint.focus();
  }

  _complain(words) {
    this.wrong.textContent = words;
    this.wrong.hidden = !words;
  }
}

async function asPng(blob) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(blob);
  } catch {
    throw new Problem(415, { detail: "This file is no picture that can be read. Choose a PNG, JPEG, WebP or GIF file." });
  }
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return canvas.convertToBlob({ type: "image/png" });
}

function sizeWords(stored) {
  return stored?.width ? `${stored.width} × ${stored.height} pixels` : "";
}
