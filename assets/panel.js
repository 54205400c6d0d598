/** The panel beside the pictures: tabs, chat, connections and log. */

import { route, speak } from "./stats.js";

const LOG_LINES = 500;

/** Makes a tab list work with mouse and arrow keys; `opened` is called with the id of the pane. */
export function tabs(list, opened) {
  const buttons = [...list.querySelectorAll("[role=tab]")];
  const select = (chosen, focus) => {
    for (const button of buttons) {
      const on = button === chosen;
      button.setAttribute("aria-selected", on);
      button.tabIndex = on ? 0 : -1;
      document.getElementById(button.getAttribute("aria-controls")).hidden = !on;
    }
    if (focus) chosen.focus();
    opened(chosen.getAttribute("aria-controls"));
  };
  list.addEventListener("click", ({ target }) => {
    const button = target.closest("[role=tab]");
    if (button) select(button);
  });
  list.addEventListener("keydown", (event) => {
    const at = buttons.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: buttons.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    select(buttons.at(to % buttons.length), true);
  });
}

/** Adds an item to a list that scrolls, and stays at its end if it was there. */
function append(list, item) {
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  list.append(item);
  if (atEnd) list.scrollTop = list.scrollHeight;
}

function element(name, className, text) {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

/** The list of messages. */
export class Chat {
  /** @type {{from: string, text: string, own: boolean}[]} */
  messages = [];
  #list;
  #empty;

  constructor(list, empty) {
    this.#list = list;
    this.#empty = empty;
  }

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

  constructor(list) {
    this.#list = list;
  }

  add(text, level = "info") {
    const line = `${new Date().toISOString().slice(11, 23)} ${text}`;
    this.lines.push(line);
    append(this.#list, element("li", level, line));
    if (this.lines.length <= LOG_LINES) return;
    this.lines.shift();
    this.#list.firstElementChild.remove();
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

  constructor(list, template, empty) {
    this.#list = list;
    this.#template = template;
    this.#empty = empty;
  }

  /** @param {object[]} peers What `inspect` returned, with `name`, `down` and `up` in bits per second. */
  show(peers) {
    this.#empty.hidden = peers.length > 0;
    while (this.#list.children.length > peers.length) this.#list.lastElementChild.remove();
    peers.forEach((peer, i) => {
      const item = this.#list.children[i] ?? this.#list.appendChild(this.#template.content.firstElementChild.cloneNode(true));
      fill(item, peer);
    });
  }
}

function fill(item, peer) {
  item.dataset.user = peer.id;
  item.querySelector(".dot").dataset.state = peer.connectionState;
  item.querySelector("b").textContent = peer.name;
  item.querySelector(".peer-state").textContent = peer.connectionState;
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
  item.querySelector("dl").replaceChildren(...cells);
}
