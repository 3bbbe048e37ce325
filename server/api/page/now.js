// The job that is looked at: its picture as it comes, its progress, its graph, and what it gave or why it failed.

import { call, follow, pictureUrl, text, thumbnailUrl } from "./api.js";
import { announce, button, fill, h, icon, saveAs } from "./dom.js";
import { GraphView } from "./graph.js";
import { begun, nodeOfAll, nodeStates, partDone, take } from "./jobstate.js";
import { readWritten } from "./json.js";
import { nodesOf } from "./workflow.js";
import { counted, duration, gist, stateWords, timeLeft, valueWords } from "./words.js";

const DRAW_MILLISECONDS = 60;
const TITLE = document.title;

/** The card of one job. Told what to do by `actions`: open(job, href), again(job, tree), problem(error), changed(). */
export class NowCard {
  constructor(actions) {
    this.actions = actions;
    this.known = null;
    this.stop = new AbortController();
    this.element = h("div", { class: "card now" });
    this._build();
    this.clear();
  }

  /** The id of the job that is shown, or null. */
  get jobId() {
    return this.known?.job.id ?? null;
  }

  /** Whether the shown job still has something to happen. */
  get isLive() {
    return this.known !== null && !isOver(this.known.state);
  }

  clear() {
    this._leave();
    const words = h("p", { class: "hint" }, "Choose a workflow, change what you like, and press Run. What happens is shown here.");
    fill(this.element, h("div", { class: "empty" }, icon("play"), h("p", {}, "Nothing is running"), words));
    document.title = TITLE;
  }

  /** Shows a job and follows it to its end. */
  async show(job) {
    if (job.id === this.jobId) return;
    this._leave();
    const stop = (this.stop = new AbortController());
    this.known = begun(job);
    this.tree = null;
    this.nodes = [];
    this.said = -1;
    this._reset(job);
    this._draw();
    try {
      const tree = readWritten(await text(`/v1/jobs/${job.id}/document`));
      if (stop.signal.aborted) return;
      this.tree = tree;
      this.nodes = nodesOf(tree);
      this.graph.draw(this.nodes);
      this._draw();
      await this._follow(job, stop.signal);
    } catch (error) {
      if (!stop.signal.aborted) this.actions.problem(error);
    }
  }

  /** Is told what the list of jobs says of the shown one, and how many wait before it. */
  place(ahead, queue) {
    if (this.known && !isOver(this.known.state)) {
      this.ahead = ahead;
      this.queue = queue;
      this._soon();
    }
  }

  async _follow(job, signal) {
    await follow(job.id, {
      signal,
      onEvent: (event) => {
        this.lost = false;
        take(this.known, event);
        this._announce(event);
        this._soon();
      },
      onPreview: ({ jpeg }) => this._preview(jpeg),
      onLost: () => {
        this.lost = true;
        this._soon();
      },
    });
    if (signal.aborted) return;
    const ended = await call("GET", `/v1/jobs/${job.id}`);
    if (signal.aborted) return;
    Object.assign(this.known, { job: ended, state: ended.state, error: ended.error });
    for (const [id, { status, tier, seconds }] of Object.entries(ended.nodes)) {
      const kind = { ran: "node_finished", cached: "node_cached" }[status] ?? "node_skipped";
      if (!this.known.copies.has(id)) take(this.known, { kind, data: { node: id, tier, seconds } });
    }
    this._draw();
    this._results();
    this.actions.changed();
  }

  _build() {
    this.title = h("h3", {});
    this.chip = h("span", { class: "chip" });
    this.about = h("p", { class: "gist" });
    this.cancel = button("Cancel", () => this._cancel(), { kind: "danger" });
    this.again = button("Change and run again", () => this.actions.again(this.known.job, this.tree), { icon: "edit" });
    this.bar = h("div", { class: "fill" });
    this.track = h("div", { class: "track", role: "progressbar", "aria-label": "Progress", "aria-valuemin": "0", "aria-valuemax": "100" }, this.bar);
    this.step = h("span", {});
    this.left = h("span", {});
    this.image = h("img", { alt: "", hidden: true });
    this.open = h("button", { type: "button", class: "stage-picture", on: { click: () => this._open(0) } }, this.image);
    this.stageWords = h("p", { class: "stage-words" });
    this.more = h("div", { class: "strip" });
    this.stage = h("div", { class: "stage" }, this.open, this.stageWords);
    this.error = h("div", { class: "failure", hidden: true });
    this.notes = h("ul", { class: "notes", hidden: true });
    this.graph = new GraphView();
  }

  _reset(job) {
    this.shownError = null;
    this.files = [];
    this.stage.classList.remove("preview");
    this.stageWords.textContent = "";
    this.image.hidden = true;
    this.open.disabled = true;
    this.title.textContent = job.workflow ?? "A job of its own";
    this.about.textContent = gist(job.params);
    fill(this.more);
    fill(
      this.element,
      h("header", { class: "now-head" }, h("div", {}, h("div", { class: "row" }, this.title, this.chip), this.about), this.cancel, this.again),
      h("div", { class: "progress" }, this.track, h("p", { class: "progress-words" }, this.step, this.left)),
      this.error,
      this.notes,
      h("div", { class: "now-body" }, h("div", {}, this.stage, this.more), this.graph.element),
    );
    this.graph.draw([]);
  }

  _leave() {
    this.stop.abort();
    this.known = null;
    this.ahead = this.queue = null;
    this.lost = false;
    if (this.previewUrl) URL.revokeObjectURL(this.previewUrl);
    this.previewUrl = null;
  }

  _soon() {
    this.timer ??= setTimeout(() => {
      this.timer = null;
      if (this.known) this._draw();
    }, DRAW_MILLISECONDS);
  }

  _draw() {
    const { known } = this;
    const over = isOver(known.state);
    this.chip.textContent = known.cancelling && !over ? "Cancelling" : stateWords(known.state);
    this.chip.dataset.state = known.state;
    this.cancel.hidden = over;
    this.cancel.disabled = known.cancelling;
    this.again.hidden = !over || !this.tree;
    this._drawProgress(known, over);
    if (this.nodes.length) this.graph.update(nodeStates(known));
    this._drawNotes(known, over);
  }

  _drawProgress(known, over) {
    const part = partDone(known, this.nodes);
    const { progress } = known;
    this.track.parentElement.dataset.state = known.state;
    this.bar.style.width = `${(100 * part).toFixed(1)}%`;
    const words = this._stepWords(known);
    const left = progress?.left !== null && progress?.left !== undefined && !over ? timeLeft(progress.left) : "";
    this.step.textContent = words;
    this.left.textContent = left;
    this.track.setAttribute("aria-valuenow", String(Math.round(100 * part)));
    this.track.setAttribute("aria-valuetext", [words, left].filter(Boolean).join(", "));
    document.title = known.state === "running" ? `${Math.round(100 * part)} % · ${this.title.textContent}` : TITLE;
    if (known.state !== "succeeded") this.stageWords.textContent = this.image.hidden ? STAGE[known.state] : "";
    this.stage.dataset.state = known.state;
  }

  _stepWords({ state, progress, job }) {
    if (this.lost) return "The connection was lost. Trying again …";
    if (state === "queued") return this._waitWords();
    if (state === "waiting_retry") return "Waits for its next attempt";
    if (state === "succeeded") return job.seconds !== null ? `Took ${duration(job.seconds)}` : "Done";
    if (state !== "running") return "";
    if (!progress) return "Starting";
    const words = progress.total ? `${progress.node}: step ${progress.step} of ${progress.total}` : `${progress.node} runs`;
    return [words, nodeOfAll(this.known)].filter(Boolean).join(", ");
  }

  _waitWords() {
    if (this.queue?.paused) return "The queue is paused";
    if (this.queue?.reason) return `Waiting: ${this.queue.reason}`;
    return this.ahead ? `Waiting, ${counted(this.ahead, "job")} before it` : "Waiting for a worker";
  }

  _drawNotes(known, over) {
    this.notes.hidden = !known.warnings.length && (!known.note || over);
    const note = known.note && !over ? [h("li", {}, known.note)] : [];
    fill(this.notes, ...note, ...known.warnings.slice(-5).map((words) => h("li", {}, words)));
    this.error.hidden = !known.error;
    if (!known.error || this.shownError === known.error) return;
    this.shownError = known.error;
    const { message, node, node_type: type, detail } = known.error;
    fill(
      this.error,
      h("p", {}, h("strong", {}, node ? `${node}${type ? ` (${type})` : ""} failed. ` : "The job failed. "), message),
      detail ? h("details", {}, h("summary", {}, "Details"), h("pre", {}, detail)) : null,
    );
  }

  _preview(jpeg) {
    const bytes = Uint8Array.from(atob(jpeg), (char) => char.charCodeAt(0));
    const url = URL.createObjectURL(new Blob([bytes], { type: "image/jpeg" }));
    if (this.previewUrl) URL.revokeObjectURL(this.previewUrl);
    this.previewUrl = url;
    this._picture(url, "Preview of the picture that is being made");
    this.stage.classList.add("preview");
  }

  _picture(url, alt) {
    this.image.src = url;
    this.image.alt = alt;
    this.image.hidden = false;
    this.stageWords.textContent = "";
  }

  async _results() {
    const { job } = this.known;
    const all = Object.values(job.outputs).flat();
    const files = all.filter((file) => file.width);
    const others = all.filter((file) => !file.width).map((file) => this._saveButton(file));
    this.files = files;
    const values = Object.entries(job.values).map(([name, value]) => h("p", { class: "value" }, h("strong", {}, `${name}: `), valueWords(value)));
    const thumbs = files.slice(1, 9).map((file, index) => {
      const image = h("img", { alt: `Picture ${index + 2}` });
      thumbnailUrl(file.href).then((url) => Object.assign(image, { src: url }), () => {});
      return h("button", { type: "button", class: "thumb", on: { click: () => this._open(index + 1) } }, image);
    });
    fill(this.more, ...thumbs, ...others, ...values);
    if (!files.length) {
      this.stageWords.textContent = this.image.hidden ? "The job gave no picture." : "";
      return;
    }
    try {
      const url = await pictureUrl(files[0].href);
      if (this.known?.job.id !== job.id) return;
      this.stage.classList.remove("preview");
      this._picture(url, `The picture: ${gist(job.params) || job.workflow || "finished"}`);
      this.open.disabled = false;
    } catch (error) {
      this.actions.problem(error);
    }
  }

  _saveButton({ href, name }) {
    const bare = name.split("/").pop();
    const save = () => pictureUrl(href).then((url) => saveAs(url, bare)).catch((error) => this.actions.problem(error));
    return button(`Save ${bare}`, save, { icon: "save" });
  }

  _open(index) {
    this.actions.open(this.known.job, this.files[index].href);
  }

  async _cancel() {
    const { job } = this.known;
    this.known.cancelling = true;
    this._draw();
    try {
      await call("DELETE", `/v1/jobs/${job.id}`);
      this.actions.changed();
    } catch (error) {
      if (this.known?.job.id === job.id) this.known.cancelling = false;
      this.actions.problem(error);
    }
  }

  /** Says the turns of a job to those who can't see them: its start, each quarter of its steps, its end. */
  _announce({ kind, data }) {
    if (kind === "started") announce(`${this.title.textContent} has started.`);
    if (kind === "finished") announce(`${this.title.textContent}: ${stateWords(data.state)}.${data.error ? ` ${data.error.message}` : ""}`);
    if (kind !== "progress" || !data.total) return;
    const quarter = Math.floor((4 * data.step) / data.total);
    if (quarter === this.said || quarter === 0) return;
    this.said = quarter;
    announce(`${data.node}: step ${data.step} of ${data.total}.`);
  }
}

const STAGE = {
  queued: "The picture will come here.",
  waiting_retry: "The picture will come here.",
  running: "The preview comes with the first steps.",
  failed: "There is no picture.",
  cancelled: "It was cancelled.",
  quarantined: "It was set aside, because two workers died while they ran it.",
};

function isOver(state) {
  return ["succeeded", "failed", "cancelled", "quarantined"].includes(state);
}
