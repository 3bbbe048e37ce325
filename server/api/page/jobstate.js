// What is known of one job, put together from its events in the order in which they come. Pure: no server, no element.

import { doneWords } from "./graph.js";
import { nodeOfRun } from "./workflow.js";
import { duration } from "./words.js";

const ORDER = ["failed", "running", "waiting", "done", "cached", "skipped"];

/** Returns what is known of a job before its first event. */
export function begun(job) {
  return { job, state: job.state, copies: new Map(), progress: null, planned: 0, warnings: [], note: "", error: job.error, cancelling: job.cancel_requested };
}

/** Takes an event of the job into account. */
export function take(known, { kind, data }) {
  switch (kind) {
    case "started":
      Object.assign(known, { state: "running", progress: null, planned: 0, note: "", error: null });
      known.copies.clear();
      break;
    case "planned":
      known.planned = data.nodes ?? 0;
      break;
    case "node_started":
      known.copies.set(data.node, { state: "running", words: "running", part: 0 });
      known.progress = { node: data.node, step: 0, total: 0, left: null };
      break;
    case "progress":
      known.copies.set(data.node, { state: "running", words: `${data.step}/${data.total}`, part: data.total ? data.step / data.total : 0 });
      known.progress = { node: data.node, step: data.step, total: data.total, left: data.seconds_left ?? null };
      break;
    case "node_finished":
      known.copies.set(data.node, { state: "done", words: doneWords(data.seconds ?? 0), seconds: data.seconds });
      break;
    case "node_cached":
      known.copies.set(data.node, { state: "cached", words: data.tier ? `cached (${data.tier})` : "cached" });
      break;
    case "node_failed":
      known.copies.set(data.node, { state: "failed", words: "failed" });
      break;
    case "node_skipped":
      known.copies.set(data.node, { state: "skipped", words: "not needed" });
      break;
    case "warning":
      known.warnings.push(data.message ?? "");
      break;
    case "retrying":
      Object.assign(known, { state: "waiting_retry", note: reasonOf(data), progress: null });
      break;
    case "restarted":
      Object.assign(known, { state: "waiting_retry", note: "The server was restarted; the job runs again.", progress: null });
      break;
    case "put_back":
      Object.assign(known, { state: "queued", note: "The server was shut down; the job waits for it.", progress: null });
      break;
    case "cancel_requested":
      known.cancelling = true;
      break;
    case "finished":
      Object.assign(known, { state: data.state, error: data.error ?? null, progress: null, cancelling: false });
      break;
    default:
  }
}

/** Returns at which of the nodes that the run needs it is, in words; nothing while that is not known. */
export function nodeOfAll({ copies, planned }) {
  const at = Math.max(1, copies.size);
  return planned >= at ? `node ${at} of ${planned}` : "";
}

/** Returns the states of the document's nodes; a node that is many in the run is what its copies are together. */
export function nodeStates(known) {
  const groups = new Map();
  for (const [id, copy] of known.copies) {
    const node = nodeOfRun(id);
    if (!groups.has(node)) groups.set(node, []);
    groups.get(node).push(copy);
  }
  const ended = ["failed", "cancelled", "quarantined"].includes(known.state);
  return new Map([...groups].map(([node, copies]) => [node, together(copies, ended)]));
}

/** Returns which part of the nodes is done, the one that runs in proportion, from 0 to 1: of those that the run needs, or,
 * until that is told, of the document's.
 */
export function partDone(known, nodes) {
  if (known.state === "succeeded") return 1;
  if (known.planned) return Math.min(1, [...known.copies.values()].reduce((sum, copy) => sum + partOf(copy), 0) / known.planned);
  const states = nodeStates(known);
  const parts = nodes.map(({ id }) => partOf(states.get(id)));
  return nodes.length ? parts.reduce((sum, part) => sum + part, 0) / nodes.length : 0;
}

function partOf(state) {
  if (!state) return 0;
  return state.state === "running" ? (state.part ?? 0) : 1;
}

function together(copies, ended) {
  if (copies.length === 1) return stopped(copies[0], ended);
  const state = ORDER.find((one) => copies.some((copy) => copy.state === one));
  const over = copies.filter((copy) => copy.state === "done" || copy.state === "cached").length;
  const seconds = copies.reduce((sum, copy) => sum + (copy.seconds ?? 0), 0);
  const words = state === "done" ? (seconds >= 0.05 ? duration(seconds) : "") : `${over} of ${copies.length}`;
  const part = (over + copies.reduce((sum, copy) => sum + (copy.state === "running" ? (copy.part ?? 0) : 0), 0)) / copies.length;
  return stopped({ state, words, part }, ended);
}

function stopped(copy, ended) {
  return ended && copy.state === "running" ? { ...copy, state: "waiting", words: "stopped" } : copy;
}

function reasonOf({ why, error }) {
  const reason = typeof why === "string" ? why : (error?.message ?? why?.message ?? "");
  return `The attempt failed${reason ? `: ${reason.replace(/\.$/, "")}` : ""}. It is tried again.`;
}
