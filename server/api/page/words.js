// How things are said: states, names, times, values. Returns texts only.

const STATES = {
  queued: "Waiting",
  running: "Running",
  waiting_retry: "Will be tried again",
  succeeded: "Done",
  failed: "Failed",
  cancelled: "Cancelled",
  quarantined: "Set aside",
};

/** Returns a state of a job for people. */
export function stateWords(state) {
  return STATES[state] ?? state;
}

const TERMS = {
  cfg: "CFG",
  clip: "CLIP",
  "clip g": "CLIP-G",
  "clip h": "CLIP-H",
  "clip l": "CLIP-L",
  "control net": "ControlNet",
  controlnet: "ControlNet",
  "ip adapter": "IP adapter",
  lora: "LoRA",
  t5: "T5",
  t5xxl: "T5-XXL",
  unet: "UNet",
  vae: "VAE",
};
const TERM = new RegExp(`\\b(${Object.keys(TERMS).sort((a, b) => b.length - a.length).join("|")})\\b`, "gi");

/** Returns the name of a parameter as a label, in the terms of the field: "clip_l" is "CLIP-L", "noise_seed" is "Noise seed". */
export function labelOf(name) {
  const words = name.replace(/[_-]+/g, " ").trim().replace(TERM, (term) => TERMS[term.toLowerCase()]);
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** Returns how long something takes. */
export function duration(seconds) {
  if (seconds < 0.95) return `${Math.max(0.1, seconds).toFixed(1)} s`;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  return minutes < 90 ? `${minutes} min` : `${(minutes / 60).toFixed(1)} h`;
}

/** Returns how long something will still take. */
export function timeLeft(seconds) {
  return seconds < 1 ? "almost done" : `about ${seconds < 90 ? `${Math.ceil(seconds)} s` : duration(seconds)} left`;
}

/** Returns how long ago a time (RFC 3339) was. */
export function ago(time, now = Date.now()) {
  const seconds = Math.max(0, (now - Date.parse(time)) / 1000);
  if (seconds < 50) return "just now";
  if (seconds < 3600) return `${Math.round(seconds / 60) || 1} min ago`;
  if (seconds < 86_400) return `${Math.round(seconds / 3600)} h ago`;
  return new Date(time).toLocaleDateString(undefined, { day: "numeric", month: "short", year: "numeric" });
}

/** Returns a time of the day, with the date. */
export function moment(time) {
  return new Date(time).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "short" });
}

/** Returns a value of a parameter as text. */
export function valueWords(value) {
  if (typeof value === "string") return value.startsWith("sha256:") ? `picture ${value.slice(7, 15)}` : value;
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (Array.isArray(value)) return value.map(valueWords).join(", ");
  return typeof value === "object" ? JSON.stringify(value, (_, one) => (typeof one === "bigint" ? String(one) : one)) : String(value);
}

/** Returns what a job is about: its prompt or first text, for a line in a list. */
export function gist(params) {
  const texts = Object.entries(params).filter(([, value]) => typeof value === "string" && value && !value.startsWith("sha256:"));
  const best = texts.find(([name]) => /prompt|text|subject/i.test(name) && !/negative/i.test(name)) ?? texts[0];
  const list = Object.values(params).find((value) => Array.isArray(value) && value.length);
  return best?.[1] ?? (list ? valueWords(list) : "");
}

/** Returns a count with its noun. */
export function counted(count, noun, plural = `${noun}s`) {
  return `${count} ${count === 1 ? noun : plural}`;
}
