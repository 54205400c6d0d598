const BACKOFF_BASE_MS = 500;
const BACKOFF_CAP_MS = 15_000;
/** The cap while the server keeps a place that a longer delay would cost. */
const EAGER_CAP_MS = 2_000;
/** A connection that lived this long was a good one: the next loss starts the backoff anew. */
const STABLE_MS = 5_000;
/** After this much silence a connection must prove itself when the network or the tab comes back. */
const STALE_MS = 20_000;
const PROBE_TIMEOUT_MS = 4_000;
/** How long a socket that is being closed may take to confirm it. */
const GOODBYE_MS = 1_000;

/**
 * Returns the delay before an attempt to reconnect: exponential backoff with full jitter, so that
 * the clients of a restarted server do not return all at once.
 *
 * @param {number} attempt The number of attempts that failed so far.
 * @param {number} [cap] The longest delay, in milliseconds.
 * @returns {number} Milliseconds.
 */
export function backoff(attempt, cap = BACKOFF_CAP_MS) {
  return Math.random() * Math.min(cap, BACKOFF_BASE_MS * 2 ** attempt);
}

/**
 * Returns the WebSocket URL of the server that this module was loaded from.
 *
 * @returns {string}
 */
export function defaultURL() {
  const url = new URL("../ws", import.meta.url);
  url.protocol = url.protocol === "http:" ? "ws:" : "wss:";
  url.search = "";
  return url.href;
}

/**
 * Whom a {@link Connection} tells what happens.
 *
 * @typedef {object} Owner
 * @property {() => URL} address Where the next attempt is made to.
 * @property {() => Promise<string[]>|null} protocols Which subprotocols to offer, or null for none.
 * @property {() => void} unopened A socket could not be opened.
 * @property {() => boolean} eager Whether a place is kept for this client only for a short time.
 * @property {(frame: string) => void} received A frame came.
 * @property {(attempt: number, delay: number, reason: string) => void} lost The socket is lost, or
 *   could not be made; that attempt is made in `delay` ms.
 * @property {(code: number, reason: string) => void} ended The server wants no other attempt.
 * @property {(timeout: number) => Promise<void>} probe Asks the server for any answer within
 *   `timeout` ms; it is fulfilled in any case.
 */

/** A WebSocket that is replaced after a loss. It knows nothing of what is said over it. */
export class Connection {
  #owner;
  /** @type {WebSocket|null} */
  #socket = null;
  #running = false;
  /** What counts attempts to open a socket, each of which makes those before void. */
  #openings = 0;
  #timer = 0;
  #attempt = 0;
  /** When the server greeted the present socket, in ms since the epoch; 0 before. */
  #greetedAt = 0;
  #heardAt = 0;
  /** When the server wants this client back; 0 when it did not say. */
  #returnAt = 0;

  /** @param {Owner} owner */
  constructor(owner) {
    this.#owner = owner;
  }

  /** Begins to connect. */
  start() {
    this.#running = true;
    globalThis.addEventListener?.("online", this.#probe);
    globalThis.document?.addEventListener("visibilitychange", this.#probe);
    this.#open();
  }

  /** Closes the socket and makes no other, until `start()` is called again. */
  stop() {
    clearTimeout(this.#timer);
    globalThis.removeEventListener?.("online", this.#probe);
    globalThis.document?.removeEventListener("visibilitychange", this.#probe);
    const socket = this.#socket;
    this.#socket = null;
    this.#running = false;
    this.#openings++;
    this.#attempt = this.#greetedAt = this.#returnAt = 0;
    if (socket && socket.readyState <= WebSocket.OPEN) socket.close(1000);
  }

  /** Whether the server has greeted the present socket. */
  get greeted() {
    return this.#greetedAt !== 0;
  }

  /** Takes note that the server has greeted the present socket. */
  greet() {
    this.#greetedAt = Date.now();
  }

  /** @param {object} message Sent as JSON, or dropped when there is no open socket. */
  write(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  /**
   * Replaces the socket in a while, because the server goes away.
   *
   * @param {number} after Milliseconds.
   * @param {string} reason
   */
  replace(after, reason) {
    this.#returnAt = Date.now() + after;
    this.#wait(after, () => this.#drop(reason));
  }

  /**
   * Waits for one thing, in place of what was waited for.
   *
   * @param {number} delay Milliseconds.
   * @param {() => void} then
   */
  #wait(delay, then) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(then, delay);
  }

  #open() {
    const protocols = this.#owner.protocols();
    const opening = ++this.#openings;
    if (!protocols) return this.#dial();
    protocols.then(
      (offered) => opening === this.#openings && this.#dial(offered),
      (error) => opening === this.#openings && this.#lost(0, `no token: ${error?.message ?? error}`),
    );
  }

  /** @param {string[]} [protocols] */
  #dial(protocols) {
    const address = this.#owner.address();
    const socket = protocols ? new WebSocket(address, protocols) : new WebSocket(address);
    this.#socket = socket;
    let opened = false;
    socket.onopen = () => {
      opened = true;
    };
    socket.onmessage = ({ data }) => {
      this.#heardAt = Date.now();
      this.#owner.received(data);
    };
    socket.onclose = ({ code, reason }) => {
      if (socket !== this.#socket) return;
      this.#lost(code, reason);
      if (!opened) this.#owner.unopened();
    };
  }

  /**
   * Gives the present socket up. A server that lives says goodbye, and can be asked to resume only
   * then; a dead one would take long to be noticed, so the wait for it is short.
   *
   * @param {string} reason
   */
  #drop(reason) {
    const socket = this.#socket;
    if (!socket) return;
    socket.close(4000, reason);
    this.#wait(GOODBYE_MS, () => {
      if (socket === this.#socket) this.#lost(4000, reason);
    });
  }

  /** @param {number} code The code the socket was closed with. @param {string} reason */
  #lost(code, reason) {
    this.#socket = null;
    if (code >= 4500 && code <= 4999) {
      this.#owner.ended(code, reason);
      return;
    }
    if (this.greeted && Date.now() - this.#greetedAt >= STABLE_MS) this.#attempt = 0;
    this.#greetedAt = 0;
    const cap = this.#owner.eager() ? EAGER_CAP_MS : BACKOFF_CAP_MS;
    const delay = this.#returnAt ? Math.max(0, this.#returnAt - Date.now()) : backoff(this.#attempt, cap);
    this.#returnAt = 0;
    this.#attempt++;
    this.#wait(delay, () => this.#open());
    this.#owner.lost(this.#attempt, delay, reason || `close code ${code}`);
  }

  /**
   * Finds out whether the socket survived the loss of the network or the sleep of the tab.
   *
   * @param {Event} event
   */
  #probe = async ({ type }) => {
    if (type === "visibilitychange" && document.visibilityState !== "visible") return;
    if (!this.#socket && this.#running && type === "online") {
      clearTimeout(this.#timer);
      this.#open();
      return;
    }
    if (!this.greeted || Date.now() - this.#heardAt < STALE_MS) return;
    const socket = this.#socket;
    await this.#owner.probe(PROBE_TIMEOUT_MS);
    if (socket === this.#socket && Date.now() - this.#heardAt >= PROBE_TIMEOUT_MS) this.#drop("no answer to a probe");
  };
}
