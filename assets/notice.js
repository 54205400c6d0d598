/** Tells the user what happened and what can be done about it. */

const $ = (id) => document.getElementById(id);
let pending = null;

/** Shows a notice until it is dismissed, with something to do about it if there is. */
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
  pending = null;
}

/** Copies a text and says so on the button. */
export async function copy(text, button) {
  const label = button.querySelector("span") ?? button;
  const before = label.dataset.label ?? label.textContent;
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
