import { backoff, Connection, defaultURL } from "./connection.js";
import { Deferred } from "./deferred.js";
import { Emitter } from "./emitter.js";
import { RoomFullError, SignalError } from "./errors.js";
import { Outbox } from "./outbox.js";
import { Requests } from "./requests.js";
import { Session } from "./session.js";
import { isStranger, Tokens } from "./token.js";
import { readMessage } from "./wire.js";

/** @import { ClientEvents, Membership, State } from "./events.js" */
/** @import { Message } from "./requests.js" */
/** @import { TokenSource } from "./token.js" */

const REQUEST_TIMEOUT_MS = 10_000;
/** Errors that trying again does not mend. */
const FINAL = [400, 401, 403, 413];

/**
 * A connection to the signaling server.
 *
 * Once connected it stays so: a lost WebSocket is replaced after a backoff, the session is resumed
 * when the server offers that, and otherwise the room is joined again. Only `close()` and the close
 * codes 4500–4999 end it. Its events are CustomEvents; {@link ClientEvents} lists them.
 *
 * @extends {Emitter<ClientEvents>}
 */
export class SignalClient extends Emitter {
  /** @type {State} */
  state = "idle";
  /** Your own id, as the server gave it; empty before the first connection. */
  userId = "";
  /** The room you are in, or empty. */
  room = "";
  /** @type {string[]} The members of the room in join order, yourself included. */
  users = [];
  /** @type {RTCIceServer[]} The newest ICE servers. */
  iceServers = [];
  /** The most users a room can hold, or 0 when the server did not say. */
  maxRoomUsers = 0;

  #url;
  /** @type {Tokens|null} Null for a server that wants none. */
  #tokens = null;
  #timeout;
  #session = new Session();
  #requests = new Requests((message) => this.#outbox.send(message));
  #outbox = new Outbox(
    (message) => this.#connection.write(message),
    (message) => this.#requests.awaits(message),
  );
  #connection;
  /** @type {Deferred<void>|null} Settled by the first greeting after a loss; null while closed. */
  #ready = null;
  /** The room to be in after a reconnect; unlike `room` it survives the loss of a connection. */
  #wanted = "";
  /** @type {{room: string, entered: Deferred<Membership>}|null} */
  #join = null;
  #rejoining = false;
  /** Whether the server may take this client for a member of a room that it has left. */
  #leaving = false;
  /** Whether the session was resumed with a gap and what has to be compared is still to come. */
  #gap = false;
  /** The room that the server has this client in after a gap. */
  #placed = "";

  /**
   * @param {string} [url] The server's WebSocket URL; the server of this module by default.
   * @param {{timeout?: number, token?: TokenSource}} [options] `timeout`: milliseconds a request may wait for its
   *   answer, 10,000 by default. `token`: for a server that wants one, a token or a function that gets one; with a function
   *   the connection outlives the tokens. Tokens that stay refused, or none where one is needed, end it with code 401, one that
   *   expires with 4501.
   */
  constructor(url = defaultURL(), { timeout = REQUEST_TIMEOUT_MS, token } = {}) {
    super();
    this.#url = url;
    this.#timeout = timeout;
    if (token !== undefined) {
      this.#tokens = new Tokens(token, url, {
        renew: (fresh) => this.request("auth", { data: JSON.stringify({ token: fresh }) }),
        refused: (code, reason) => this.state !== "connected" && this.#end(code, reason),
      });
    }
    this.#connection = new Connection({
      address: () => this.#session.address(this.#url),
      protocols: () => this.#tokens?.protocols() ?? null,
      unopened: () => (this.#tokens ? this.#tokens.examine() : this.#examine()),
      eager: () => this.#session.kept,
      received: (frame) => this.#received(frame),
      lost: (attempt, delay, reason) => this.#lost(attempt, delay, reason),
      ended: (code, reason) => this.#end(code, reason),
      probe: (timeout) => this.request("stun_config", {}, { timeout }).then(
        () => {},
        () => {},
      ),
    });
  }

  /**
   * Connects. It is safe to call at any time: a connection that exists or is being made is used.
   *
   * @returns {Promise<void>} Fulfilled once the server has sent the first ICE servers, and rejected
   *   with a {@link SignalError} when the connection is closed before.
   */
  connect() {
    if (this.#ready) return this.#ready.promise;
    const { promise } = this.#awaitReady();
    this.#setState("connecting");
    this.#connection.start();
    return promise;
  }

  /**
   * Enters a room, and leaves the present one if it is another. Connects first when needed.
   *
   * @param {string} room 1–128 characters of `A–Z a–z 0–9 . _ ~ : @ + -`.
   * @returns {Promise<Membership>} Rejected with a {@link RoomFullError} when the room is full and
   *   with a {@link SignalError} otherwise.
   */
  async join(room) {
    await this.connect();
    this.#join?.entered.reject(new SignalError(0, "Another join took its place."));
    this.#wanted = room;
    this.#leaving = false;
    try {
      return await this.#enter(room);
    } catch (error) {
      if (this.#wanted === room) this.#wanted = this.room;
      throw error;
    }
  }

  /** Leaves the room, if you are in one. It is never rejected. */
  async leave() {
    const room = this.room;
    this.#wanted = "";
    this.#join?.entered.reject(new SignalError(0, "You left before the room was entered."));
    if (!room) return;
    this.#leaving = true;
    const told = this.#tellLeave();
    this.#leftRoom();
    await told;
  }

  /** Has the server know that the room is left, now or when the session is resumed. */
  async #tellLeave() {
    if (this.state !== "connected") return;
    try {
      await this.request("leave_room");
      this.#leaving = false;
    } catch {
      // The resumed session is told again.
    }
  }

  /** Leaves the room and closes the connection for good, until `connect()` is called again. */
  close() {
    this.#wanted = "";
    if (this.room) {
      this.#connection.write({ type: "leave_room" });
      this.#leftRoom();
    }
    this.#end(1000, "closed by the client");
  }

  /**
   * Sends an app message to one member, or to the whole room. It reaches each member at most once, and
   * outlives the loss of the connection.
   *
   * @param {any} data Anything that JSON can express.
   * @param {string} [target] The id of the member; everybody when it is missing.
   * @returns {Promise<string[]>} As {@link SignalClient.request}.
   */
  sendMessage(data, target) {
    return this.request("message", { target_id: target, data: JSON.stringify(data) }, { keep: true });
  }

  /**
   * Sends an offer or an answer.
   *
   * @param {string} target The id of the member.
   * @param {RTCSessionDescription} description
   * @returns {Promise<string[]>} As {@link SignalClient.request}.
   */
  sendDescription(target, { type, sdp }) {
    return this.request(type, { target_id: target, data: JSON.stringify({ sdp, type }) }, { keep: true });
  }

  /**
   * @param {string} target The id of the member.
   * @param {RTCIceCandidate} candidate
   * @returns {Promise<string[]>} As {@link SignalClient.request}.
   */
  sendCandidate(target, candidate) {
    return this.request("ice_candidate", { target_id: target, data: JSON.stringify(candidate) }, { keep: true });
  }

  /**
   * Asks for fresh ICE servers; they come as an `ice` event and in `iceServers`.
   *
   * @returns {Promise<string[]>} As {@link SignalClient.request}.
   */
  refreshIce() {
    return this.request("stun_config");
  }

  /**
   * Sends any message of the wire contract under an id of its own and waits for its ack.
   *
   * @param {string} type The type of the message.
   * @param {object} [fields] Its further fields.
   * @param {{keep?: boolean, timeout?: number}} [options] `keep`: while the connection is being
   *   replaced the message waits, and is sent (again) if the session can be resumed; and again while
   *   the server answers 503, or that its one target may have missed it. It does not arrive twice,
   *   since its id is the same. `timeout`: milliseconds.
   * @returns {Promise<string[]>} Fulfilled with the ids of the members that could not be reached, which is
   *   nobody as a rule. Rejected with a {@link SignalError}: the server's, or one with code 0 when there
   *   is no connection, it was lost, or there was no answer in time. A message that is larger than the
   *   server takes is not sent (code 413); one that would come too fast waits, beyond the timeout.
   */
  request(type, fields = {}, { keep = false, timeout = this.#timeout } = {}) {
    const waits = keep && this.state === "reconnecting";
    if (this.state !== "connected" && !waits) {
      return Promise.reject(new SignalError(0, "There is no connection to the server."));
    }
    const message = this.#requests.compose(type, fields);
    const problem = this.#outbox.problem(message);
    if (problem) return Promise.reject(new SignalError(413, problem));
    const answer = this.#requests.add(message, keep, timeout + this.#outbox.delay);
    if (!waits) this.#outbox.send(message);
    return answer;
  }

  /** Gives up when a WebSocket could not be opened because the server does not let in who shows nothing. */
  async #examine() {
    if ((await isStranger(this.#url)) && this.state !== "connected") {
      this.#end(401, "The server lets in only who has a token or is signed in.");
    }
  }

  #awaitReady() {
    this.#ready = new Deferred();
    this.#ready.promise.catch(() => {}); // Nobody has to wait for it.
    return this.#ready;
  }

  /** @param {number} attempt @param {number} delay @param {string} reason */
  #lost(attempt, delay, reason) {
    this.#tokens?.stop();
    this.#requests.fail((request) => !request.keep, "The connection was lost.");
    this.#outbox.stop();
    this.#requests.rest();
    const { userId } = this;
    const lasts = this.state !== "connected" || this.#session.lose();
    if (this.state === "connected") this.#awaitReady();
    this.#setState(this.state === "connecting" ? "connecting" : "reconnecting");
    this.emit("retry", { attempt, delay, reason });
    if (!lasts) this.emit("abandoned", { userId });
  }

  /** @param {number} code @param {string} reason */
  #end(code, reason) {
    if (!this.#ready) return;
    const ready = this.#ready;
    this.#ready = null;
    this.#connection.stop();
    this.#tokens?.stop();
    this.#outbox.stop();
    this.#requests.rest();
    this.#session.end();
    this.#wanted = "";
    this.#leaving = this.#gap = false;
    this.userId = "";
    const error = new SignalError(code, reason || "The connection is closed.");
    ready.reject(error);
    this.#join?.entered.reject(error);
    this.#requests.fail(() => true, error.message);
    this.#leftRoom();
    this.#setState("closed");
    this.emit("closed", { code, reason });
  }

  /** @param {string} frame */
  #received(frame) {
    const { message, data } = readMessage(frame);
    if (!message) return;
    const caughtUp = this.#session.count(message.type);
    this.#handle(message, data);
    if (caughtUp && this.state === "connected") this.#resumed();
  }

  /** @param {Message} message @param {any} data Types that are not known are left alone. */
  #handle(message, data) {
    switch (message.type) {
      case "stun_config":
        return this.#configured(message, data);
      case "user_joined":
        return this.#userJoined(message, data);
      case "user_left":
        return this.#userLeft(message, data);
      case "room_full":
        return this.#roomFull(message);
      case "error":
        return this.#refused(message, data);
      case "ack":
        return this.#requests.acknowledge(message.id ?? "", message.missed);
      case "reconnect":
        return this.#connection.replace(data.after_ms ?? 0, data.reason ?? "");
      case "offer":
      case "answer":
      case "message":
        return this.#relayed(message.type, message, data);
      case "ice_candidate":
        return this.#relayed("candidate", message, data);
    }
  }

  /** @param {"offer"|"answer"|"candidate"|"message"} name @param {Message} message @param {any} data */
  #relayed(name, { user_id: from = "", room_id: room }, data) {
    if (!room || room === this.room) this.emit(name, { from, data });
  }

  /** @param {Message} message @param {any} data */
  #configured({ user_id: userId }, data) {
    this.iceServers = data.iceServers ?? [];
    this.maxRoomUsers = data.max_room_users ?? this.maxRoomUsers;
    if (data.resume_token) this.#session.renew(data.resume_token);
    this.#outbox.limit(data);
    this.#tokens?.expireIn(data.auth_expires_in);
    const first = !this.#connection.greeted;
    const returned = first && this.state === "reconnecting";
    if (first) this.#connection.greet();
    if (first) this.#outbox.reset();
    if (first && !data.resumed) this.#session.begin();
    if (returned && !data.resumed) this.#forgetRoom();
    if (userId) this.userId = userId;
    if (first) this.#setState("connected");
    if (first) this.#gap = data.gap === true;
    if (first) this.#placed = "";
    this.emit("ice", { iceServers: this.iceServers, ttl: data.ttl ?? 0 });
    if (returned && data.resumed) {
      if (this.#session.resume(data.kept ?? 0)) this.#resumed();
    } else if (returned) {
      this.#rejoin();
    }
    this.#ready?.resolve();
  }

  /** All that came while there was no connection is here, the answers to what is sent again too. */
  #resumed() {
    const gap = this.#gap;
    this.#gap = false;
    if (gap && this.room !== this.#placed) this.#leftRoom();
    this.#requests.sendAll();
    this.emit("resumed", { userId: this.userId, gap });
    if (this.#wanted !== this.room) this.#rejoin();
    else if (this.#leaving) this.#tellLeave();
  }

  /** The server knows nothing of the old session: its id, its room and what was on its way are gone. */
  #forgetRoom() {
    this.#requests.fail(({ keep }) => keep, "The session was lost.");
    this.#leftRoom();
    this.#leaving = false;
    this.userId = "";
  }

  /** Enters the wanted room again, and does not give up while that makes sense. */
  async #rejoin() {
    if (this.#rejoining) return;
    this.#rejoining = true;
    for (let attempt = 0; this.#wanted && this.state === "connected" && this.room !== this.#wanted; attempt++) {
      const room = this.#wanted;
      try {
        await this.#enter(room);
      } catch (reason) {
        const error = /** @type {SignalError} */ (reason);
        const full = error instanceof RoomFullError && !this.#session.haunted;
        const final = full || FINAL.includes(error.code);
        if (final && this.#wanted === room) this.#wanted = "";
        if (final) this.emit("error", { code: error.code, message: error.message });
        else await new Promise((resolve) => setTimeout(resolve, backoff(attempt)));
      }
    }
    this.#rejoining = false;
  }

  /**
   * Asks for a room and waits for the own user_joined, which every server sends, ack or not.
   *
   * @param {string} room
   */
  async #enter(room) {
    /** @type {Deferred<Membership>} */
    const entered = new Deferred();
    const join = { room, entered };
    this.#join = join;
    this.request("join_room", { data: JSON.stringify({ room_id: room }) }).catch((error) => {
      if (error.code !== 0 || this.room !== room) entered.reject(error);
    });
    try {
      return await entered.promise;
    } finally {
      if (this.#join === join) this.#join = null;
    }
  }

  /** @param {Message} message @param {{users?: string[]}} data */
  #userJoined({ user_id: userId = "", room_id: room = "" }, { users = [] }) {
    // Before one's own user_joined no other event of the room comes, so the first one names oneself.
    if (!this.userId) this.userId = userId;
    if (userId !== this.userId) {
      if (room !== this.room) return;
      this.users = users;
      this.emit("userjoined", { userId, room, users });
      return;
    }
    if (this.#gap) this.#placed = room;
    if (this.#gap && room === this.room) {
      this.#compare(users);
      return;
    }
    if (this.#gap && room !== this.#wanted) {
      this.#leaving = !this.#wanted; // It was entered or left when the connection was lost.
      return;
    }
    if (this.room && this.room !== room) this.#leftRoom();
    this.room = room;
    this.users = users;
    const membership = { userId, room, users };
    this.emit("joined", membership);
    if (this.#join?.room === room) this.#join.entered.resolve(membership);
  }

  /**
   * Tells of who came and went while messages were lost.
   *
   * @param {string[]} users Who is in the room now, in join order.
   */
  #compare(users) {
    const before = this.users;
    const room = this.room;
    this.users = users;
    for (const userId of before) if (!users.includes(userId)) this.emit("userleft", { userId, room, reason: "" });
    for (const userId of users) if (!before.includes(userId)) this.emit("userjoined", { userId, room, users });
  }

  /** @param {Message} message @param {{reason?: string}} data */
  #userLeft({ user_id: userId = "", room_id: room = "" }, { reason = "" }) {
    if (room !== this.room) return;
    if (userId === this.userId) {
      this.#wanted = "";
      this.#leftRoom();
      return;
    }
    this.users = this.users.filter((user) => user !== userId);
    this.emit("userleft", { userId, room, reason });
  }

  /** @param {Message} message */
  #roomFull({ room_id: room = "", id }) {
    const error = new RoomFullError(room);
    if (id) this.#requests.settle(id, error);
    if (this.#join?.room === room) this.#join.entered.reject(error);
    if (!this.#rejoining || !this.#session.haunted) this.emit("roomfull", { room });
  }

  /** @param {Message} message @param {{code?: number, message?: string}} data */
  #refused({ id }, { code = 0, message = "" }) {
    if (id) {
      const error = new SignalError(code, message);
      const early = code === 429 && this.#requests.slow(id, error);
      if (early) this.#outbox.again(early, message);
      else if (code !== 503 || !this.#requests.postpone(id, error)) this.#requests.settle(id, error);
      return;
    }
    if (code === 410) {
      this.#session.renew("");
      if (this.state === "connected") {
        this.#leftRoom();
        this.#rejoin();
      }
    }
    this.emit("error", { code, message });
  }

  #leftRoom() {
    const room = this.room;
    if (!room) return;
    this.room = "";
    this.users = [];
    this.emit("left", { room });
  }

  /** @param {State} state */
  #setState(state) {
    if (state === this.state) return;
    this.state = state;
    this.emit("state", { state });
  }
}
