/** The panel beside the pictures: tabs, chat, connections and log. */

import { $, element, find, instance } from "./dom.js";
import { route, speak } from "./stats.js";

/** @import { Measured } from "./stats.js" */

const LOG_LINES = 500;

/**
 * Makes a tab list work with mouse and arrow keys.
 *
 * @param {Element} list
 * @param {(pane: string) => void} opened Called with the id of the pane.
 */
export function tabs(list, opened) {
  /** @type {HTMLElement[]} */
  const buttons = [...list.querySelectorAll("[role=tab]")].map((tab) => /** @type {HTMLElement} */ (tab));
  const paneOf = (/** @type {Element} */ button) => button.getAttribute("aria-controls") ?? "";
  const select = (/** @type {HTMLElement} */ chosen) => {
    for (const button of buttons) {
      const on = button === chosen;
      button.setAttribute("aria-selected", String(on));
      button.tabIndex = on ? 0 : -1;
      $(paneOf(button)).hidden = !on;
    }
    opened(paneOf(chosen));
  };
  for (const button of buttons) button.addEventListener("click", () => select(button));
  list.addEventListener("keydown", (event) => {
    const { key } = /** @type {KeyboardEvent} */ (event);
    const at = buttons.findIndex((button) => button === document.activeElement);
    /** @type {Record<string, number>} */
    const places = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 };
    const chosen = buttons.at(places[key] % buttons.length);
    if (at < 0 || places[key] === undefined || !chosen) return;
    event.preventDefault();
    select(chosen);
    chosen.focus();
  });
}

/**
 * Adds an item to a list that scrolls, and stays at its end if it was there.
 *
 * @param {Element} list
 * @param {Element} item
 */
function append(list, item) {
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  list.append(item);
  if (atEnd) list.scrollTop = list.scrollHeight;
}

/** The list of messages. */
export class Chat {
  /** @type {{from: string, text: string, own: boolean}[]} */
  messages = [];
  #list;
  #empty;

  /** @param {HTMLElement} list @param {HTMLElement} empty Shown while there is no message. */
  constructor(list, empty) {
    this.#list = list;
    this.#empty = empty;
  }

  /**
   * @param {string} from The user id of who wrote it.
   * @param {string} name
   * @param {string} text
   * @param {boolean} own Whether it is one's own.
   */
  add(from, name, text, own) {
    this.messages.push({ from, text, own });
    const item = element("li", own ? "own" : "", "");
    const time = element("time", "", new Date().toLocaleTimeString([], { hour: "2-digit", minute: "2-digit" }));
    const head = element("p", "who", own ? "You" : name);
    head.append(time);
    item.append(head, element("p", "text", text));
    this.#empty.hidden = true;
    append(this.#list, item);
  }

  clear() {
    this.messages.length = 0;
    this.#list.replaceChildren();
    this.#empty.hidden = false;
  }
}

/** What happened, for whoever has to find out why something did not work. */
export class Log {
  /** @type {string[]} */
  lines = [];
  #list;

  /** @param {HTMLElement} list */
  constructor(list) {
    this.#list = list;
  }

  /** @param {string} text @param {"info"|"warn"|"error"} [level] */
  add(text, level = "info") {
    const line = `${new Date().toISOString().slice(11, 23)} ${text}`;
    this.lines.push(line);
    append(this.#list, element("li", level, line));
    if (this.lines.length <= LOG_LINES) return;
    this.lines.shift();
    this.#list.firstElementChild?.remove();
  }

  clear() {
    this.lines.length = 0;
    this.#list.replaceChildren();
  }
}

/** The list of connections with what is measured of them. */
export class Connections {
  #list;
  #template;
  #empty;

  /**
   * @param {HTMLElement} list
   * @param {HTMLTemplateElement} template Of one connection.
   * @param {HTMLElement} empty Shown while there is none.
   */
  constructor(list, template, empty) {
    this.#list = list;
    this.#template = template;
    this.#empty = empty;
  }

  /** @param {Measured[]} peers */
  show(peers) {
    this.#empty.hidden = peers.length > 0;
    while (this.#list.children.length > peers.length) this.#list.lastElementChild?.remove();
    peers.forEach((peer, i) => {
      const item = this.#list.children[i] ?? this.#list.appendChild(instance(this.#template));
      fill(/** @type {HTMLElement} */ (item), peer);
    });
  }
}

/** @param {HTMLElement} item @param {Measured} peer */
function fill(item, peer) {
  item.dataset.user = peer.id;
  find(item, ".dot").dataset.state = peer.connectionState;
  find(item, "b").textContent = peer.name;
  find(item, ".peer-state").textContent = peer.connectionState;
  const rows = {
    Path: peer.localType ? `${peer.localType} → ${peer.remoteType}` : "not yet",
    Route: route(peer) || "–",
    "Round trip": peer.roundTripTime ? `${Math.round(peer.roundTripTime * 1000)} ms` : "–",
    Receiving: speak(peer.down),
    Sending: speak(peer.up),
    Frames: `${peer.framesDecoded} in, ${peer.framesSent} out`,
    ICE: peer.iceConnectionState,
    Data: peer.dataChannel,
  };
  const cells = Object.entries(rows).flatMap(([key, value]) => [element("dt", "", key), element("dd", "", value)]);
  find(item, "dl").replaceChildren(...cells);
}
