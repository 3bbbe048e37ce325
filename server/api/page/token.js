// The dialog that asks for a token. What it is told is handed to the caller and kept by nobody here.

import { Problem } from "./api.js";
import { button, h } from "./dom.js";

const FORM = /^lg_[A-Za-z0-9_-]{43}$/;

/** Returns the promise of a token; rejects with the problem if the person closes the dialog. */
export function askToken(problem) {
  const input = h("input", { type: "password", id: "token", autocomplete: "off", spellcheck: "false", required: true, "aria-describedby": "token-hint token-wrong" });
  const wrong = h("p", { class: "wrong", id: "token-wrong", role: "alert", hidden: true });
  const words = problem.code === "wrong-token" ? "The server does not know this token, or it was revoked. Enter another." : "";
  const form = h(
    "form",
    { novalidate: true },
    h("h2", { id: "token-title" }, "This server needs a token"),
    h("p", { class: "hint", id: "token-hint" }, "Whoever runs the server makes one with ", h("code", {}, "latentgraph token create --scope submit"), ". It is kept until you close this tab."),
    h("label", { for: "token" }, "Token"),
    input,
    wrong,
    h("div", { class: "row end" }, button("Not now", () => dialog.close()), h("button", { type: "submit", class: "primary" }, "Use this token")),
  );
  const dialog = h("dialog", { class: "ask", "aria-labelledby": "token-title" }, form);
  const say = (text) => {
    wrong.textContent = text;
    wrong.hidden = !text;
    if (text) input.setAttribute("aria-invalid", "true");
  };
  say(words);
  document.body.append(dialog);
  dialog.showModal();
  input.focus();
  return new Promise((resolve, reject) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      const given = input.value.trim();
      if (!FORM.test(given)) {
        say("A token begins with lg_ and has 46 characters. Copy all of it.");
        input.focus();
        return;
      }
      resolve(given);
      dialog.close();
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      reject(new Problem(401, { code: "no-token", detail: "Without a token the server shows nothing. Reload the page to enter one." }));
    });
  });
}
