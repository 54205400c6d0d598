/**
 * A token, or a function that gets one, such as from the backend of the page. It is asked for each connection and before a
 * token expires.
 *
 * @typedef {string | (() => string | Promise<string>)} TokenSource
 */

/** How long before the end of a token the next one is asked for, if it lives long enough. */
const EARLY_MS = 90_000;
/** How long to wait when a token could not be renewed. */
const RENEW_AGAIN_MS = 5_000;
/** After that many tokens in a row which the server refused there is no hope. */
const MAX_REFUSED = 3;
/** Two times that differ by less are of the same token: the server tells whole seconds. */
const SAME_MS = 2_000;

/**
 * What {@link Tokens} are for.
 *
 * @typedef {object} TokenOwner
 * @property {(token: string) => Promise<unknown>} renew Sends a fresh token; it is rejected when that is refused.
 * @property {(code: number, reason: string) => void} refused The server wants none of the tokens.
 */

/** @param {string} url The server's WebSocket URL. */
function iceAddress(url) {
  const address = new URL(url);
  address.protocol = address.protocol.replace("ws", "http");
  address.pathname = address.pathname.replace(/[^/]*$/, "ice");
  address.search = "";
  return address;
}

/**
 * Finds out, when a client without a token could not open a WebSocket, whether the server lets in only who has a token or is known to its
 * owner: browsers do not tell. A server that lets everybody in gives no reason.
 *
 * @param {string} url The server's WebSocket URL.
 * @returns {Promise<boolean>} False also if the server does not say.
 */
export async function isStranger(url) {
  try {
    return (await reasonOf(url, "include")) !== "";
  } catch {
    // The server is away, or this page may not show cookies: then only a token can be what is missing.
    return (await reasonOf(url, "omit").catch(() => "")) === "missing";
  }
}

/** @param {string} url @param {RequestCredentials} credentials */
async function reasonOf(url, credentials) {
  const response = await fetch(iceAddress(url), { credentials, cache: "no-store" });
  return response.status === 401 ? ((await response.json()).reason ?? "") : "";
}

/** The tokens of a client: where they come from, and when they end. */
export class Tokens {
  #source;
  #owner;
  #ice;
  /** The token that was shown last. */
  #last = "";
  /** When the present token ends and when the next one is due, in ms since the epoch; 0 for never. */
  #end = 0;
  #due = 0;
  #timer = 0;
  #refused = 0;

  /**
   * @param {TokenSource} source
   * @param {string} url The server's WebSocket URL.
   * @param {TokenOwner} owner
   */
  constructor(source, url, owner) {
    this.#source = source;
    this.#owner = owner;
    this.#ice = iceAddress(url);
  }

  async #get() {
    return typeof this.#source === "function" ? this.#source() : this.#source;
  }

  /** Returns the subprotocols to offer, which are how a page can show a token with the request for a WebSocket. */
  async protocols() {
    this.#last = await this.#get();
    return ["signal.v1", `bearer.${this.#last}`];
  }

  /**
   * Finds out, when a WebSocket could not be opened, whether its token was the reason: browsers do not tell. One that never
   * changes is given up at once.
   */
  async examine() {
    const status = await this.#ask();
    if (status !== 401 && status !== 403) return;
    this.#refused++;
    if (typeof this.#source === "function" && this.#refused < MAX_REFUSED) return; // The next attempt shows another one.
    this.#owner.refused(status, "The server refuses the token.");
  }

  /** Returns how the server answers to the last token, 0 for not at all. */
  async #ask() {
    try {
      const headers = { Authorization: `Bearer ${this.#last}` };
      return (await fetch(this.#ice, { headers, credentials: "omit", cache: "no-store" })).status;
    } catch {
      return 0;
    }
  }

  /**
   * Takes note of how long the present token is good. A fresh one is asked for in time, and at once if that is late
   * because the browser let the page sleep.
   *
   * @param {number} [seconds] For ever if it is missing.
   */
  expireIn(seconds) {
    this.#refused = 0;
    clearTimeout(this.#timer);
    if (!seconds || typeof this.#source !== "function") return;
    const left = seconds * 1000;
    const end = Date.now() + left;
    if (Math.abs(end - this.#end) > SAME_MS) this.#due = end - Math.min(EARLY_MS, left / 4);
    this.#end = end;
    this.#wait(this.#due - Date.now());
  }

  /** @param {number} delay Milliseconds. */
  #wait(delay) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => this.#renew(), Math.min(Math.max(0, delay), 2 ** 31 - 1));
  }

  async #renew() {
    if (Date.now() < this.#due) return this.#wait(this.#due - Date.now());
    try {
      const token = await this.#get();
      if (!this.#timer) return; // The connection is lost, and the next one shows a token by itself.
      this.#wait(RENEW_AGAIN_MS); // Unless the server says before how long this one is good.
      await this.#owner.renew(token);
    } catch {
      if (this.#timer) this.#wait(RENEW_AGAIN_MS);
    }
  }

  /** Waits for nothing any more, because there is no connection. */
  stop() {
    clearTimeout(this.#timer);
    this.#timer = this.#end = 0;
  }
}
