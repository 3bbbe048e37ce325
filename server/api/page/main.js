// The page, put together: which part tells which other what. Everything else is in the modules that this one imports.

import { askWith, forgetToken, hasToken } from "./api.js";
import { announce } from "./dom.js";
import { Gallery } from "./gallery.js";
import { Maker } from "./make.js";
import { NowCard } from "./now.js";
import { Queue } from "./queue.js";
import { askToken } from "./token.js";
import { Viewer } from "./viewer.js";

const VIEWS = ["make", "watch", "gallery"];

const byId = (id) => document.getElementById(id);

const maker = new Maker({
  problem,
  submitted: (job) => {
    if (now.isLive) {
      announce("The job waits in the queue.");
    } else {
      announce("The job is in the queue.");
      now.show(job);
    }
    turnTo("watch");
    queue.refresh();
  },
});

const now = new NowCard({
  problem,
  open: (job, href) => openPicture(job, href),
  again,
  changed: () => queue.refresh(),
});

const queue = new Queue({
  problem,
  show: (job) => {
    now.show(job);
    turnTo("watch");
  },
  reached: (is) => serverState(is),
  changed: ({ ended, first }) => {
    if (!maker.loaded) maker.load();
    if (ended || first) gallery.refresh();
    const { running } = queue;
    if (!now.isLive && running.length) now.show(running[0]);
    now.place(queue.ahead(now.jobId), queue.state);
    const count = queue.jobs.length;
    byId("badge").hidden = !count;
    byId("badge").textContent = count ? String(count) : "";
  },
});

const gallery = new Gallery({ problem, open: (index) => viewer.open(gallery.shots, index) });

const viewer = new Viewer({
  again,
  reroll: (job, tree, seed) => maker.reroll(job, tree, seed),
  asInput: (blob) => {
    turnTo("make");
    maker.asInput(blob).catch(problem);
  },
  closed: (index) => gallery.focus(index),
});

function again(job, tree) {
  turnTo("make");
  maker.again(job, tree);
}

async function openPicture(job, href) {
  let index = gallery.shots.findIndex((shot) => shot.file.href === href);
  if (index < 0) {
    await gallery.refresh();
    index = gallery.shots.findIndex((shot) => shot.file.href === href);
  }
  if (index >= 0) viewer.open(gallery.shots, index);
}

/** Shows an error that belongs to no field. */
function problem(error) {
  if (error.name === "AbortError") return;
  byId("notice-words").textContent = error.message;
  byId("notice").hidden = false;
  if (!error.status && error.code !== "unreachable") throw error;
}

function serverState(reached) {
  const { paused, draining, reason } = queue.state;
  const [state, words] = !reached
    ? ["lost", "Can't be reached"]
    : draining
      ? ["lost", "Shutting down"]
      : paused
        ? ["waiting", "Paused"]
        : reason
          ? ["waiting", "Warming up"]
          : ["ready", "Ready"];
  byId("server").dataset.state = state;
  byId("server-words").textContent = words;
  byId("forget-token").hidden = !hasToken();
}

/** On a narrow screen one part of the page is shown at a time. */
function turnTo(view) {
  if (location.hash !== `#${view}`) history.replaceState(null, "", `#${view}`);
  showView();
}

function showView() {
  const view = VIEWS.find((one) => location.hash === `#${one}`) ?? "make";
  document.body.dataset.view = view;
  for (const link of document.querySelectorAll(".tabs a")) {
    if (link.hash === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
}

askWith(askToken);
byId("make-body").append(maker.element);
byId("now").append(now.element);
byId("queue").append(queue.element);
byId("gallery-body").append(gallery.element);
byId("notice-close").addEventListener("click", () => {
  byId("notice").hidden = true;
});
byId("forget-token").addEventListener("click", () => {
  forgetToken();
  location.reload();
});
window.addEventListener("hashchange", showView);
for (const kind of ["dragover", "drop"]) {
  window.addEventListener(kind, (event) => event.preventDefault()); // a picture dropped beside its field must not replace the page
}
showView();
maker.load();
queue.refresh();
