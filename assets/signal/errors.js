/** A refusal by the server, or a request that got no answer (code 0). */
export class SignalError extends Error {
  /**
   * @param {number} code The code of the wire contract, such as 404 or 503; 0 when there was no answer.
   * @param {string} message What went wrong, in words.
   */
  constructor(code, message) {
    super(message);
    this.name = "SignalError";
    this.code = code;
  }
}

/** The room holds its maximum of users. */
export class RoomFullError extends SignalError {
  /** @param {string} room The room that could not be entered. */
  constructor(room) {
    super(0, `The room ${room} is full.`);
    this.name = "RoomFullError";
    this.room = room;
  }
}
