/** @import { Message } from "./requests.js" */

/** What servers take that do not say: messages a second, and at once. */
const USUAL_RATE = 50;
const USUAL_BURST = 200;
/** How long to wait when the server does not say. */
const USUAL_WAIT_MS = 1_000;
/** Which part of the limits is used: on its way what was sent evenly comes in bunches. */
const SHARE_OF_RATE = 0.9;
const SHARE_OF_BURST = 0.8;

/** What a call waits for: it goes before app messages. */
const URGENT = ["offer", "answer", "ice_candidate"];

/** @param {Message} message */
const numberOf = ({ id }) => Number(id);

/**
 * The way to the server, which takes so many messages a second and so many at once: what is more waits here.
 *
 * Messages go in the order in which they were made. Only what calls are made of overtakes app messages, and nothing overtakes
 * the entering or leaving of a room.
 */
export class Outbox {
  #write;
  #wanted;
  #rate = 0;
  #burst = 0;
  /** How large a message may be, in bytes. */
  #size = Infinity;
  /** How many messages could be sent at `#countedAt`; less than 0 when the server asked to wait. */
  #tokens = 0;
  #countedAt = 0;
  /** @type {Message[]} */
  #waiting = [];
  /** The timer of the next message, 0 for none. */
  #timer = 0;

  /**
   * @param {(message: Message) => void} write Sends a message at once.
   * @param {(message: Message) => boolean} wanted Whether anybody waits for the answer to a message still.
   */
  constructor(write, wanted) {
    this.#write = write;
    this.#wanted = wanted;
    this.limit();
  }

  /**
   * Obeys limits, as a server announces them.
   *
   * @param {{message_rate?: number, message_burst?: number, max_message_bytes?: number}} [limits]
   */
  limit({ message_rate: rate = USUAL_RATE, message_burst: burst = USUAL_BURST, max_message_bytes: size = Infinity } = {}) {
    this.#rate = rate * SHARE_OF_RATE;
    this.#burst = Math.max(1, Math.floor(burst * SHARE_OF_BURST));
    this.#size = size;
    this.#tokens = Math.min(this.#tokens, this.#burst);
  }

  /** Begins anew with a new connection, of which the server has counted nothing. What waits is forgotten. */
  reset() {
    this.stop();
    this.#tokens = this.#burst;
    this.#countedAt = Date.now();
  }

  /** Sends nothing of what waits. */
  stop() {
    clearTimeout(this.#timer);
    this.#timer = 0;
    this.#waiting = [];
  }

  /** How long a message that is sent now may have to wait, in milliseconds. */
  get delay() {
    const missing = this.#waiting.length + 1 - this.#count();
    return missing > 0 ? (missing / this.#rate) * 1000 : 0;
  }

  /**
   * Says how much too large a message is.
   *
   * @param {Message} message
   * @returns {string} What is wrong, in words; empty when the message can be sent.
   */
  problem(message) {
    const text = JSON.stringify(message);
    if (text.length * 3 <= this.#size) return "";
    const size = new TextEncoder().encode(text).length;
    return size > this.#size ? `The message is too large: it has ${size} bytes, and the server takes ${this.#size}.` : "";
  }

  /** @param {Message} message Sent at once or when its turn comes. */
  send(message) {
    if (this.#waiting.includes(message)) return;
    const urgent = URGENT.includes(message.type);
    const goesBefore = (/** @type {Message} */ other) =>
      numberOf(message) < numberOf(other) || (urgent && other.type === "message");
    let place = this.#waiting.length;
    while (place > 0 && goesBefore(this.#waiting[place - 1])) place--;
    this.#waiting.splice(place, 0, message);
    this.#flush();
  }

  /**
   * Sends a message again that came too fast.
   *
   * @param {Message} message
   * @param {string} refusal What the server says of it, such as `rate limit: wait 20 ms`.
   */
  again(message, refusal) {
    const wait = Number(/wait (\d+) ms/.exec(refusal)?.[1] ?? USUAL_WAIT_MS);
    if (message.type === "stun_config") { // It has a limit of its own, and nothing else need wait for it.
      setTimeout(() => this.send(message), wait);
      return;
    }
    this.#tokens = Math.min(this.#count(), 1 - (wait / 1000) * this.#rate);
    this.send(message);
  }

  /** Returns how many messages can be sent now. */
  #count() {
    const now = Date.now();
    const more = (Math.max(0, now - this.#countedAt) / 1000) * this.#rate;
    this.#tokens = Math.min(this.#burst, this.#tokens + more);
    this.#countedAt = now;
    return this.#tokens;
  }

  #flush() {
    this.#waiting = this.#waiting.filter(this.#wanted);
    while (this.#waiting.length > 0 && this.#count() >= 1) {
      this.#tokens--;
      this.#write(/** @type {Message} */ (this.#waiting.shift()));
    }
    clearTimeout(this.#timer);
    this.#timer = 0;
    if (this.#waiting.length === 0) return;
    this.#timer = setTimeout(() => this.#flush(), Math.ceil(((1 - this.#tokens) / this.#rate) * 1000));
  }
}
