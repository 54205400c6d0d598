/** For how long after the loss of its connection a session is worth hurry: about what servers grant. */
const GRACE_MS = 20_000;

/** After that many attempts to resume that got nowhere the session is given up. */
const MAX_STUCK = 3;
/** A connection that was lost within this time, with frames missing of which none came, got nowhere. */
const STUCK_MS = 5_000;

/** What it takes to resume a session over another connection. */
export class Session {
  #token = "";
  /** When the connection was lost, in ms since the epoch. */
  #lostAt = 0;
  /** How many frames of the session have come, those apart that are of one connection only. */
  #got = 0;
  /** How many still have to come of those that a resumed session had kept. */
  #missing = 0;
  /** How many connections in a row got nowhere, and when the present one resumed, 0 when it has got somewhere. */
  #stuck = 0;
  #resumedAt = 0;
  /** When the session was given up, in ms since the epoch; 0 if none was. */
  #abandonedAt = 0;

  /**
   * Returns the URL that asks for the session.
   *
   * @param {string} url The server's WebSocket URL.
   */
  address(url) {
    const address = new URL(url);
    if (this.#token) {
      address.searchParams.set("resume", this.#token);
      address.searchParams.set("got", String(this.#got));
    }
    return address;
  }

  /** @param {string} token The newest token of the session. */
  renew(token) {
    this.#token = token;
  }

  /**
   * Takes note that the connection of the session is lost. A session whose next frame makes the browser close each connection
   * is given up.
   *
   * @returns {boolean} Whether there is still something to resume.
   */
  lose() {
    this.#lostAt = Date.now();
    this.#stuck = this.#lostAt - this.#resumedAt < STUCK_MS ? this.#stuck + 1 : 0;
    this.#resumedAt = 0;
    if (this.#stuck < MAX_STUCK) return true;
    this.#abandonedAt = this.#lostAt;
    this.end();
    return false;
  }

  /** Whether a session that was given up may still hold a place in the room. */
  get haunted() {
    return Date.now() - this.#abandonedAt < GRACE_MS;
  }

  /** Whether the server may still keep the session, whose connection is lost. */
  get kept() {
    return this.#token !== "" && Date.now() - this.#lostAt < GRACE_MS;
  }

  /** Counts anew, because the server began another session. */
  begin() {
    this.#got = this.#missing = this.#stuck = this.#resumedAt = 0;
  }

  /** Gives the session up. */
  end() {
    this.renew("");
    this.begin();
  }

  /**
   * @param {number} kept How many frames the server had kept and sends now.
   * @returns {boolean} Whether nothing is missing.
   */
  resume(kept) {
    this.#missing = kept;
    this.#resumedAt = kept > 0 ? Date.now() : 0;
    return kept === 0;
  }

  /**
   * Counts a frame that came.
   *
   * @param {string} type The type of its message.
   * @returns {boolean} Whether it is the last that was missing.
   */
  count(type) {
    if (type === "stun_config" || type === "reconnect") return false;
    this.#got++;
    this.#resumedAt = 0;
    return this.#missing > 0 && --this.#missing === 0;
  }
}
