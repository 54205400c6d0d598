/** Tells the user what happened and what can be done about it. */

import { $ } from "./dom.js";

/** @type {(() => void)|undefined} What the button of the notice does. */
let pending;

/**
 * Shows a notice until it is dismissed, with something to do about it if there is.
 *
 * @param {string} text
 * @param {string} [label] What the button says.
 * @param {() => void} [action] What it does.
 */
export function notify(text, label, action) {
  $("notice-text").textContent = text;
  $("notice-action").textContent = label ?? "";
  $("notice-action").hidden = !action;
  $("notice").hidden = false;
  pending = action;
}

/** Takes the notice away. */
export function dismiss() {
  $("notice").hidden = true;
  pending = undefined;
}

/**
 * Copies a text and says so on the button.
 *
 * @param {string} text
 * @param {HTMLElement} button
 */
export async function copy(text, button) {
  const label = /** @type {HTMLElement} */ (button.querySelector("span") ?? button);
  const before = label.dataset.label ?? label.textContent ?? "";
  label.dataset.label = before;
  try {
    await navigator.clipboard.writeText(text);
    label.textContent = "Copied";
  } catch {
    notify(`The browser does not let this page copy. Copy it from here: ${text}`);
  }
  setTimeout(() => (label.textContent = before), 2000);
}

$("notice-close").addEventListener("click", dismiss);
$("notice-action").addEventListener("click", () => {
  const action = pending;
  dismiss();
  action?.();
});
