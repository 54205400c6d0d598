/** The grid of pictures. */

import { hueOf } from "./media.js";

const GAP = 10;
const RATIO = 16 / 9;

/** Returns the width of the largest tiles of which count fit into a box. */
export function fit(count, width, height) {
  let best = 0;
  for (let columns = 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns);
    const byWidth = (width - GAP * (columns - 1)) / columns;
    const byHeight = ((height - GAP * (rows - 1)) / rows) * RATIO;
    best = Math.max(best, Math.min(byWidth, byHeight));
  }
  return Math.floor(best);
}

/** One tile for each person. It dispatches `blocked` when the browser refuses to play sound. */
export class Tiles extends EventTarget {
  #list;
  #template;
  #tiles = new Map();

  constructor(list, template) {
    super();
    this.#list = list;
    this.#template = template;
    new ResizeObserver(() => this.#layout()).observe(list);
  }

  /**
   * Shows a person, or what is new about them.
   *
   * @param {string} id
   * @param {{name?: string, stream?: MediaStream, own?: boolean, audio?: boolean, video?: boolean,
   *   mirrored?: boolean, screen?: boolean, state?: string, route?: string, veil?: string}} news
   */
  show(id, news) {
    const tile = this.#tiles.get(id) ?? this.#create(id, news.own);
    Object.assign(tile.known, news);
    const { name = "", stream, own, audio, video, mirrored, screen, state = "", route = "", veil = "" } = tile.known;
    const { root, part } = tile;
    if (stream && part.video.srcObject !== stream) part.video.srcObject = stream;
    if (stream) this.#play(part.video);
    part.name.textContent = own ? `${name} (you)` : name;
    part.avatar.textContent = initials(name);
    part.avatar.style.setProperty("--hue", hueOf(name));
    part.route.textContent = route;
    part.veil.textContent = veil;
    root.dataset.state = state;
    root.classList.toggle("no-video", !video);
    root.classList.toggle("no-audio", !audio);
    root.classList.toggle("mirrored", Boolean(mirrored));
    root.classList.toggle("whole", Boolean(screen));
    root.setAttribute("aria-label", [part.name.textContent, veil, route].filter(Boolean).join(", "));
  }

  /** Takes a person's tile away. */
  remove(id) {
    const tile = this.#tiles.get(id);
    if (!tile) return;
    tile.part.video.srcObject = null;
    tile.root.remove();
    this.#tiles.delete(id);
    this.#layout();
  }

  /** Takes all tiles away. */
  clear() {
    for (const id of [...this.#tiles.keys()]) this.remove(id);
  }

  /** Turns the sound on that the browser had refused; it takes a gesture of the user. */
  unmute() {
    for (const { known, part } of this.#tiles.values()) {
      if (!known.own) part.video.muted = false;
    }
  }

  #create(id, own) {
    const root = this.#template.content.firstElementChild.cloneNode(true);
    const part = { video: root.querySelector("video") };
    for (const name of ["avatar", "veil", "name", "route"]) part[name] = root.querySelector(`.${name}`);
    part.video.muted = Boolean(own);
    root.dataset.user = id;
    root.classList.toggle("own", Boolean(own));
    const tile = { root, part, known: {} };
    this.#tiles.set(id, tile);
    if (own) this.#list.prepend(root);
    else this.#list.append(root);
    this.#layout();
    return tile;
  }

  async #play(video) {
    if (!video.paused) return;
    try {
      await video.play();
    } catch (error) {
      if (error.name !== "NotAllowedError" || video.muted) return;
      video.muted = true;
      this.dispatchEvent(new Event("blocked"));
      this.#play(video);
    }
  }

  #layout() {
    const { clientWidth, clientHeight } = this.#list;
    if (!clientWidth || !this.#tiles.size) return;
    this.#list.style.setProperty("--tile", `${fit(this.#tiles.size, clientWidth, clientHeight)}px`);
  }
}

function initials(name) {
  const words = name.split(/[\s\-_]+/).filter(Boolean);
  return words.slice(0, 2).map((word) => [...word][0].toUpperCase()).join("");
}
