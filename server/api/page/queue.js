// The jobs that wait and run, and those that lately went wrong: kept up to date by asking, often while there are some.

import { call } from "./api.js";
import { button, fill, h } from "./dom.js";
import { ago, counted, gist, stateWords } from "./words.js";

const BUSY_MILLISECONDS = 1500;
const IDLE_MILLISECONDS = 4000;
const HIDDEN_MILLISECONDS = 15_000;
const READY_POLLS = 8; // a server that was ready is asked again after so many
const LISTED = 50;
const ENDED_BADLY = ["failed", "quarantined", "cancelled"];

/** The list of jobs. Told what to do by `actions`: show(job), again(job), problem(error), changed(view). */
export class Queue {
  constructor(actions) {
    this.actions = actions;
    this.jobs = [];
    this.counts = null;
    this.state = { paused: false, draining: false, reason: "" };
    this.list = h("ul", { class: "jobs" });
    this.bad = h("ul", { class: "jobs" });
    this.badFrame = h("details", { class: "bad", hidden: true }, h("summary", {}, "What went wrong lately"), this.bad);
    this.head = h("h3", {}, "Queue");
    this.pauseButton = button("Pause", () => this._pause(), { kind: "quiet" });
    this.note = h("p", { class: "hint" });
    this.element = h("div", { class: "card" }, h("header", { class: "card-head" }, this.head, this.pauseButton), this.note, this.list, this.badFrame);
    document.addEventListener("visibilitychange", () => document.hidden || this.refresh());
  }

  /** The ids of the jobs that wait or run, in the order in which they are shown. */
  get waiting() {
    return this.jobs.filter((job) => job.state !== "running");
  }

  get running() {
    return this.jobs.filter((job) => job.state === "running");
  }

  /** How many jobs are listed as waiting before a job. */
  ahead(id) {
    const index = this.waiting.findIndex((job) => job.id === id);
    return index < 0 ? 0 : index + this.running.length;
  }

  /** Asks at once, and goes on asking. */
  async refresh() {
    clearTimeout(this.timer);
    if (this.stopped) return;
    if (this.asking) {
      this.askAgain = true;
      return;
    }
    this.asking = true;
    let wait = null;
    try {
      await this._ask();
      this.actions.reached(true);
    } catch (error) {
      wait = Math.max(3000, 1000 * (error.retrySeconds ?? 0));
      if (error.status === 401) this.stopped = true; // nobody wants to give a token
      if (error.status === 0) this.actions.reached(false);
      else this.actions.problem(error);
    } finally {
      this.asking = false;
    }
    if (this.askAgain) {
      this.askAgain = false;
      return void this.refresh();
    }
    wait ??= document.hidden ? HIDDEN_MILLISECONDS : this.jobs.length ? BUSY_MILLISECONDS : IDLE_MILLISECONDS;
    this.timer = setTimeout(() => this.refresh(), wait);
  }

  async _ask() {
    const [queue, reason] = await Promise.all([call("GET", "/v1/queue"), this._readyReason()]);
    const before = this.counts;
    const same = before !== null && Object.keys(queue.jobs).every((state) => queue.jobs[state] === before[state]);
    this.state = { paused: queue.paused, draining: queue.draining, reason };
    const active = queue.jobs.queued + queue.jobs.running + queue.jobs.waiting_retry;
    if (!same || active) await this._list(active);
    if (!same) await this._listBad(queue.jobs);
    this.counts = queue.jobs;
    this._draw(active);
    this.actions.changed({ ended: before !== null && !same, first: before === null });
  }

  async _list(active) {
    const page = active ? await call("GET", `/v1/jobs?state=queued&state=running&state=waiting_retry&limit=${LISTED}`) : { items: [] };
    const oldest = page.items.reverse();
    const rank = (job) => (job.state === "running" ? 0 : 1);
    this.jobs = oldest.sort((one, other) => rank(one) - rank(other) || other.priority - one.priority);
  }

  async _listBad(counts) {
    const some = ENDED_BADLY.some((state) => counts[state]);
    const page = some ? await call("GET", `/v1/jobs?${ENDED_BADLY.map((state) => `state=${state}`).join("&")}&limit=6`) : { items: [] };
    this.badFrame.hidden = !page.items.length;
    fill(this.bad, ...page.items.map((job) => this._badRow(job)));
  }

  _draw(active) {
    const { paused, draining, reason } = this.state;
    this.head.textContent = active ? `Queue · ${active}` : "Queue";
    this.pauseButton.lastChild.textContent = paused ? "Resume" : "Pause";
    const more = active - this.jobs.length;
    const notes = [
      draining && "The server is shutting down and takes no more jobs.",
      paused && "The queue is paused: no job is begun.",
      reason && !draining && active > 0 && `Jobs wait: ${reason}.`,
      more > 0 && `${counted(more, "more job")} not shown here.`,
      !active && "Nothing waits.",
    ];
    this.note.textContent = notes.filter(Boolean).join(" ");
    this.note.hidden = !this.note.textContent;
    this._drawRows();
  }

  /** Keeps the rows of jobs that stay, so that the focus stays with them. */
  _drawRows() {
    const rows = new Map([...this.list.children].map((row) => [row.dataset.job, row]));
    const wanted = this.jobs.map((job) => {
      const row = rows.get(job.id) ?? this._row(job);
      row.update(job);
      return row;
    });
    const lost = this.list.contains(document.activeElement) && !wanted.some((row) => row.contains(document.activeElement));
    if (wanted.length !== this.list.children.length || wanted.some((row, index) => row !== this.list.children[index])) {
      const focused = document.activeElement;
      fill(this.list, ...wanted);
      if (this.list.contains(focused)) focused.focus();
    }
    if (lost) (this.list.querySelector("button") ?? this.pauseButton).focus();
  }

  _row(job) {
    const chip = h("span", { class: "chip" });
    const bar = h("span", { class: "mini" });
    const words = gist(job.params);
    const open = h("button", { type: "button", class: "job" }, chip, h("span", { class: "job-name" }, job.workflow ?? "A job of its own"), h("span", { class: "gist" }, words), bar);
    const cancel = button("Cancel", () => this._cancel(row), { kind: "quiet danger" });
    cancel.setAttribute("aria-label", `Cancel ${job.workflow ?? "the job"}${words ? `: ${words}` : ""}`);
    const row = h("li", { "data-job": job.id }, open, cancel);
    open.addEventListener("click", () => this.actions.show(row.job));
    row.update = (now) => {
      row.job = now;
      chip.dataset.state = now.state;
      chip.textContent = now.cancel_requested ? "Cancelling" : stateWords(now.state);
      const { progress } = now;
      bar.textContent = progress?.total ? `${progress.step}/${progress.total}` : "";
      cancel.disabled = now.cancel_requested;
    };
    return row;
  }

  _badRow(job) {
    const chip = h("span", { class: "chip", "data-state": job.state }, stateWords(job.state));
    const words = job.error?.message ?? gist(job.params);
    const open = h("button", { type: "button", class: "job", on: { click: () => this.actions.show(job) } }, chip, h("span", { class: "job-name" }, job.workflow ?? "A job of its own"), h("span", { class: "gist" }, words), h("span", { class: "mini" }, ago(job.finished ?? job.created)));
    return h("li", {}, open);
  }

  async _cancel(row) {
    row.querySelector(".danger").disabled = true;
    try {
      await call("DELETE", `/v1/jobs/${row.job.id}`);
    } catch (error) {
      this.actions.problem(error);
    }
    this.refresh();
  }

  async _pause() {
    try {
      await call("POST", this.state.paused ? "/v1/queue/resume" : "/v1/queue/pause");
    } catch (error) {
      this.actions.problem(error);
    }
    this.refresh();
  }

  /** Returns why jobs can't be begun at once, or "". */
  async _readyReason() {
    this.polls = (this.polls ?? 0) + 1;
    if (this.polls % READY_POLLS !== 1 && this.counts !== null && !this.state.reason) return "";
    try {
      await call("GET", "/readyz");
      return "";
    } catch (error) {
      if (error.status === 503) return error.reason || "no worker is ready yet";
      throw error;
    }
  }
}
