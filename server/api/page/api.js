// The server, as the rest of the page sees it: calls, event streams, pictures. The token lives here and in sessionStorage,
// nowhere else; it travels in a header, never in an address.

import { readJson, writeJson } from "./json.js";

const KEPT = "latentgraph.token";
const PICTURES_KEPT = 120;
const THUMBNAIL = 320; // pixels: a tile of the gallery at twice the usual density

/** A refusal of the server (RFC 9457), or a server that can't be reached (status 0). */
export class Problem extends Error {
  constructor(status, body) {
    super(body.detail || body.title || "The server refused, and did not say why.");
    this.status = status;
    this.code = body.code ?? "";
    this.title = body.title ?? "";
    this.problems = body.problems ?? [];
    this.reason = body.reason ?? ""; // of a server that is not ready
    this.retrySeconds = body.retrySeconds ?? null;
  }
}

let token = sessionStorage.getItem(KEPT) ?? "";
let asking = null;
let askForToken = () => Promise.reject(new Problem(401, { detail: "The server needs a token." }));

/** Sets what asks the person for a token: a function from a Problem to the promise of a text. */
export function askWith(ask) {
  askForToken = ask;
}

export function hasToken() {
  return token !== "";
}

export function forgetToken() {
  token = "";
  sessionStorage.removeItem(KEPT);
  for (const { url } of pictures.values()) url.then(URL.revokeObjectURL, () => {});
  pictures.clear();
}

/** Returns what the server answers, as a value. `json` and `body` are what is sent. Throws Problem. */
export async function call(method, path, options = {}) {
  const response = await request(method, path, options);
  if (response.status === 204) return null;
  const text = await response.text();
  return (response.headers.get("Content-Type") ?? "").includes("json") ? readJson(text) : text;
}

/** Returns the text of an answer. Throws Problem. */
export async function text(path) {
  return (await request("GET", path)).text();
}

/** Submits a job and returns it; asked again under the same key where the network fails, so that it is taken once. */
export async function submit(path, json) {
  const headers = { "Idempotency-Key": randomKey() };
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await call("POST", path, { json, headers });
    } catch (error) {
      if (error.status !== 0 || attempt === 3) throw error;
      await pause(attempt * 700);
    }
  }
}

/** Stores a picture and returns what the server says of it. */
export function upload(blob) {
  return call("POST", "/v1/files", { body: blob, headers: { "Content-Type": blob.type || "image/png" } });
}

/** Tells what happens to a job, from event `after` on, until its end; goes on where it was when a connection breaks.
 *
 * Throws Problem if the server will not tell.
 */
export async function follow(job, { after = 0, signal, onEvent, onPreview, onLost = () => {} }) {
  let wait = 400;
  while (!signal.aborted) {
    try {
      const path = `/v1/jobs/${job}/events?after=${after}&previews=true`;
      const response = await request("GET", path, { headers: { Accept: "text/event-stream" }, signal });
      if (response.status === 204) return;
      for await (const { kind, data } of messages(response.body.getReader())) {
        wait = 400;
        if (kind === "preview") {
          onPreview(data);
        } else {
          after = data.number;
          onEvent(data);
          if (kind === "finished") return;
        }
      }
    } catch (error) {
      if (signal.aborted) return;
      if (error.status >= 400 && error.status < 500 && error.status !== 429) throw error;
      onLost(error);
    }
    await pause(wait);
    wait = Math.min(wait * 2, 8000);
  }
}

const pictures = new Map(); // href -> {url: promise of a blob URL}, the latest used last

/** Returns the promise of a URL that shows a picture of the server. */
export function pictureUrl(href) {
  let kept = pictures.get(href);
  if (kept) {
    pictures.delete(href);
  } else {
    kept = { url: request("GET", href).then((response) => response.blob()).then((blob) => URL.createObjectURL(blob)) };
    kept.url.catch(() => pictures.delete(href));
  }
  pictures.set(href, kept);
  if (pictures.size > PICTURES_KEPT) {
    const [oldest, { url }] = pictures.entries().next().value;
    pictures.delete(oldest);
    url.then(URL.revokeObjectURL, () => {});
  }
  return kept.url;
}

/** Returns the promise of a URL that shows an output of a job in small; the whole where the server makes no small one. */
export function thumbnailUrl(href) {
  return pictureUrl(`${href}${href.includes("?") ? "&" : "?"}thumbnail=${THUMBNAIL}`).catch(() => pictureUrl(href));
}

/** Returns the promise of a picture's bytes. */
export async function pictureBlob(href) {
  return (await request("GET", href)).blob();
}

/** Waits some milliseconds. */
export function pause(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

async function request(method, path, { json, body, headers = {}, signal } = {}) {
  for (;;) {
    const used = token;
    const sent = { Accept: "application/json", ...headers };
    if (used) sent.Authorization = `Bearer ${used}`;
    if (json !== undefined) {
      body = typeof json === "string" ? json : writeJson(json);
      sent["Content-Type"] = "application/json";
    }
    let response;
    try {
      response = await fetch(path, { method, headers: sent, body, signal, credentials: "omit", redirect: "error" });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Problem(0, { code: "unreachable", detail: "The server can't be reached. The page goes on trying." });
    }
    if (response.ok) return response;
    const problem = await problemOf(response);
    if (response.status !== 401) throw problem;
    if (token === used) await renewToken(problem);
  }
}

async function problemOf(response) {
  const retry = Number(response.headers.get("Retry-After"));
  let body = {};
  try {
    body = readJson(await response.text());
  } catch {
    body = { detail: `The server answered with status ${response.status}.` };
  }
  return new Problem(response.status, { ...body, retrySeconds: retry > 0 ? retry : null });
}

function renewToken(problem) {
  asking ??= askForToken(problem)
    .then((given) => {
      token = given;
      sessionStorage.setItem(KEPT, given);
    })
    .finally(() => {
      asking = null;
    });
  return asking;
}

async function* messages(reader) {
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += decoder.decode(value, { stream: true });
      const blocks = rest.split("\n\n");
      rest = blocks.pop();
      for (const block of blocks) {
        const message = messageOf(block);
        if (message) yield message;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function messageOf(block) {
  let kind = "message";
  const data = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event: ")) kind = line.slice(7);
    if (line.startsWith("data: ")) data.push(line.slice(6));
  }
  return data.length ? { kind, data: readJson(data.join("\n")) } : null;
}

function randomKey() {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
}
