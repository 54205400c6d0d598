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
 */

/**
 * @typedef {object} Request
 * @property {Message} message
 * @property {boolean} keep Whether it outlives the loss of a connection.
 * @property {Deferred<void>} answer
 * @property {number} timer
 */

/** The requests that have no answer yet. */
export class Requests {
  #nextId = 1;
  /** @type {Map<string, Request>} By id. */
  #pending = new Map();

  /**
   * Makes a request, which is sent by whoever asks for it.
   *
   * @param {string} type
   * @param {object} fields
   * @param {boolean} keep Whether it outlives the loss of a connection.
   * @param {number} timeout Milliseconds until it fails without an answer.
   * @returns {{message: Message, answer: Promise<void>}} `answer` is rejected with a {@link SignalError}.
   */
  make(type, fields, keep, timeout) {
    const id = String(this.#nextId++);
    const message = { type, id, ...fields };
    /** @type {Deferred<void>} */
    const answer = new Deferred();
    const timer = setTimeout(() => this.settle(id, new SignalError(0, `No answer to ${type}.`)), timeout);
    this.#pending.set(id, { message, keep, answer, timer });
    return { message, answer: answer.promise };
  }

  /** The messages of all requests, in the order in which they were made. */
  get messages() {
    return [...this.#pending.values()].map(({ message }) => message);
  }

  /**
   * Answers a request; an answer to none is ignored.
   *
   * @param {string} id
   * @param {SignalError} [error] Why it was refused, if it was.
   */
  settle(id, error) {
    const request = this.#pending.get(id);
    if (!request) return;
    this.#pending.delete(id);
    clearTimeout(request.timer);
    if (error) request.answer.reject(error);
    else request.answer.resolve();
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
