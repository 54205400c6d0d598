/** The grid of pictures. */

import { find, instance } from "./dom.js";
import { hueOf } from "./media.js";

const GAP = 10;
const RATIO = 16 / 9;

/**
 * What is shown of a person.
 *
 * @typedef {object} Shown
 * @property {string} [name]
 * @property {MediaStream} [stream]
 * @property {boolean} [own] Whether it is oneself.
 * @property {boolean} [audio] Whether there is sound.
 * @property {boolean} [video] Whether there is a picture.
 * @property {boolean} [mirrored]
 * @property {boolean} [screen] Whether the picture is a screen.
 * @property {string} [state] A connection state of WebRTC.
 * @property {string} [route] How the connection goes.
 * @property {string} [veil] What is told over the picture.
 */

/**
 * @typedef {object} Tile
 * @property {HTMLElement} root
 * @property {{video: HTMLVideoElement} & Record<"avatar"|"veil"|"name"|"route", HTMLElement>} part
 * @property {Shown} known
 */

/**
 * Returns the width of the largest tiles of which count fit into a box, in pixels as the box.
 *
 * @param {number} count
 * @param {number} width
 * @param {number} height
 */
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
  /** @type {Map<string, Tile>} */
  #tiles = new Map();

  /** @param {HTMLElement} list @param {HTMLTemplateElement} template Of one tile. */
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
   * @param {Shown} news
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
    part.avatar.style.setProperty("--hue", String(hueOf(name)));
    part.route.textContent = route;
    part.veil.textContent = veil;
    root.dataset.state = state;
    root.classList.toggle("no-video", !video);
    root.classList.toggle("no-audio", !audio);
    root.classList.toggle("mirrored", Boolean(mirrored));
    root.classList.toggle("whole", Boolean(screen));
    root.setAttribute("aria-label", [part.name.textContent, veil, route].filter(Boolean).join(", "));
  }

  /**
   * Takes a person's tile away.
   *
   * @param {string} id
   */
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

  /**
   * @param {string} id
   * @param {boolean|undefined} own
   * @returns {Tile}
   */
  #create(id, own) {
    const root = instance(this.#template);
    const part = {
      video: find(root, "video", HTMLVideoElement),
      avatar: find(root, ".avatar"),
      veil: find(root, ".veil"),
      name: find(root, ".name"),
      route: find(root, ".route"),
    };
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

  /** @param {HTMLVideoElement} video */
  async #play(video) {
    if (!video.paused) return;
    try {
      await video.play();
    } catch (error) {
      if (/** @type {Error} */ (error).name !== "NotAllowedError" || video.muted) return;
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

/** @param {string} name */
function initials(name) {
  const words = name.split(/[\s\-_]+/).filter(Boolean);
  return words.slice(0, 2).map((word) => [...word][0].toUpperCase()).join("");
}
