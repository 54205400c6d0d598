/**
 * `idle` before the first `connect()`; `connecting` until the server has greeted for the first time,
 * however many attempts that takes; `reconnecting` after a loss; `closed` for good.
 *
 * @typedef {"idle"|"connecting"|"connected"|"reconnecting"|"closed"} State
 */

/**
 * A room that was entered: your own id, the room, and the ids of its members in join order, yourself
 * included.
 *
 * @typedef {{userId: string, room: string, users: string[]}} Membership
 */

/**
 * The details of a `SignalClient`'s events, which are CustomEvents.
 *
 * @typedef {object} ClientEvents
 * @property {{state: State}} state `state` changed.
 * @property {{attempt: number, delay: number, reason: string}} retry There is no connection; the
 *   next attempt, counted from 1, is made in `delay` ms.
 * @property {{code: number, reason: string}} closed The connection ended for good, with that
 *   WebSocket close code, or with 401 or 403 when the server wants no token of this client.
 * @property {{userId: string, gap: boolean}} resumed A lost connection was replaced under the same id.
 *   Nothing was missed unless `gap` says so: then `userjoined` and `userleft` have told of who came and
 *   went meanwhile, but other messages are lost.
 * @property {{userId: string}} abandoned The session of that id is given up, since each attempt to resume it ended
 *   at the same place: what came next made the browser close the connection. A new one takes its place, and the
 *   room is joined again.
 * @property {{iceServers: RTCIceServer[], ttl: number}} ice Fresh ICE servers, whose credentials
 *   live `ttl` s; 0 when the server did not say.
 * @property {Membership} joined You are in a room.
 * @property {{room: string}} left You are no longer in that room.
 * @property {Membership} userjoined Somebody else joined: `userId`.
 * @property {{userId: string, room: string, reason: string}} userleft Somebody else left. The reason
 *   is a word of the wire contract, or empty.
 * @property {{room: string}} roomfull A join was refused.
 * @property {{from: string, data: any}} offer A peer's description: `{type, sdp}`.
 * @property {{from: string, data: any}} answer A peer's description: `{type, sdp}`.
 * @property {{from: string, data: any}} candidate A peer's candidate: `{candidate, sdpMid, sdpMLineIndex}`.
 * @property {{from: string, data: any}} message A peer's app message.
 * @property {{code: number, message: string}} error An error that answers no request, with its code
 *   of the wire contract.
 */

export {};
