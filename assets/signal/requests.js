import { Deferred } from "./deferred.js";
import { SignalError } from "./errors.js";

/**
 * A message of the wire contract in either direction. `data` is a JSON document in a string or a
 * plain value.
 *
 * @typedef {object} Message
 * @property {string} type
 * @property {string} [id]
 * @property {string} [user_id]
 * @property {string} [room_id]
 * @property {string} [target_id]
 * @property {any} [data]
 * @property {string[]} [missed]
 */

/**
 * @typedef {object} Request
 * @property {Message} message
 * @property {boolean} keep Whether it outlives the loss of a connection.
 * @property {Deferred<string[]>} answer
 * @property {SignalError|null} refusal Why it was refused for now, if it was.
 * @property {boolean} postponed Whether it is to be sent again.
 * @property {number} timer
 */

/** How long to wait before a message that was refused for now is sent again. */
const TRY_AGAIN_MS = 1_000;

/** The requests that have no answer yet. */
export class Requests {
  #send;
  /** The timer of what is to be sent again, 0 for none. */
  #trying = 0;
  #nextId = 1;
  /** @type {Map<string, Request>} By id. */
  #pending = new Map();

  /** @param {(message: Message) => void} send Sends a message, now or when its turn comes. */
  constructor(send) {
    this.#send = send;
  }

  /**
   * Makes a message with an id of its own.
   *
   * @param {string} type
   * @param {object} fields
   */
  compose(type, fields) {
    return { type, id: String(this.#nextId++), ...fields };
  }

  /**
   * Makes a request of a message, which is sent by whoever asks for it.
   *
   * @param {Message & {id: string}} message
   * @param {boolean} keep Whether it outlives the loss of a connection.
   * @param {number} timeout Milliseconds until it fails without an answer.
   * @returns {Promise<string[]>} Fulfilled with the members that the message did not reach, and rejected
   *   with a {@link SignalError}.
   */
  add(message, keep, timeout) {
    /** @type {Deferred<string[]>} */
    const answer = new Deferred();
    const timer = setTimeout(() => this.#expire(message.id), timeout);
    this.#pending.set(message.id, { message, keep, answer, refusal: null, postponed: false, timer });
    return answer.promise;
  }

  /** @param {Message} message Whether its answer is awaited still. */
  awaits({ id = "" }) {
    return this.#pending.has(id);
  }

  /**
   * Takes note that a request came too fast.
   *
   * @param {string} id
   * @param {SignalError} refusal
   * @returns {Message|undefined} What is to be sent again.
   */
  slow(id, refusal) {
    const request = this.#pending.get(id);
    if (request) request.refusal = refusal;
    return request?.message;
  }

  /** Sends all requests again, in the order in which they were made. */
  sendAll() {
    this.rest();
    for (const { message } of [...this.#pending.values()]) this.#send(message);
  }

  /** Sends nothing again by itself, since there is no connection. */
  rest() {
    clearTimeout(this.#trying);
    this.#trying = 0;
    for (const request of this.#pending.values()) request.postponed = false;
  }

  /**
   * Takes note that a request was refused for now, if it is one that can wait.
   *
   * @param {string} id
   * @param {SignalError} refusal
   * @returns {boolean} Whether it is to be sent again.
   */
  postpone(id, refusal) {
    const request = this.#pending.get(id);
    if (!request?.keep) return false;
    Object.assign(request, { refusal, postponed: true });
    this.#trying ||= setTimeout(() => this.#tryAgain(), TRY_AGAIN_MS);
    return true;
  }

  /** Sends what was refused for now again, all of it in order. */
  #tryAgain() {
    const postponed = [...this.#pending.values()].filter((request) => request.postponed);
    this.rest();
    for (const { message } of postponed) this.#send(message);
  }

  /**
   * Answers a request that was taken, unless nobody knows whether the one member that it is for has got it.
   *
   * @param {string} id
   * @param {string[]} [missed] The members that it did not reach, or may not have.
   */
  acknowledge(id, missed = []) {
    const target = this.#pending.get(id)?.message.target_id ?? "";
    const refusal = new SignalError(503, "The member may not have got it.");
    if (!missed.includes(target) || !this.postpone(id, refusal)) this.settle(id, null, missed);
  }

  /**
   * Answers a request; an answer to none is ignored.
   *
   * @param {string} id
   * @param {SignalError|null} [error] Why it was refused, if it was.
   * @param {string[]} [missed] The members that it did not reach.
   */
  settle(id, error, missed = []) {
    const request = this.#pending.get(id);
    if (!request) return;
    this.#pending.delete(id);
    clearTimeout(request.timer);
    if (error) request.answer.reject(error);
    else request.answer.resolve(missed);
  }

  /** @param {string} id */
  #expire(id) {
    const request = this.#pending.get(id);
    if (request) this.settle(id, request.refusal ?? new SignalError(0, `No answer to ${request.message.type}.`));
  }

  /**
   * Fails requests that can have no answer any more.
   *
   * @param {(request: Request) => boolean} which
   * @param {string} message What went wrong, in words.
   */
  fail(which, message) {
    for (const [id, request] of this.#pending) {
      if (which(request)) this.settle(id, new SignalError(0, message));
    }
  }
}
