/**
 * Browser client of the signaling server, as an ES module without dependencies. This file is the one to
 * import; what it is made of lies in signal/ beside it.
 *
 * {@link SignalClient} speaks the wire contract over one WebSocket that mends itself.
 * {@link Call} keeps one RTCPeerConnection for each other member of the room.
 *
 * ```js
 * import { SignalClient, Call } from "https://signal.example.org/signal.js";
 *
 * const client = new SignalClient();
 * const call = new Call(client);
 * call.addEventListener("track", ({ detail }) => show(detail.peer.id, detail.peer.stream));
 * call.addEventListener("peerleft", ({ detail }) => hide(detail.peer.id));
 *
 * const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: true });
 * for (const track of stream.getTracks()) await call.setTrack(track.kind, track);
 * await client.join("room-123");
 * ```
 *
 * @module signal
 */

/** @typedef {import("./signal/events.js").State} State */
/** @typedef {import("./signal/events.js").Membership} Membership */
/** @typedef {import("./signal/events.js").ClientEvents} ClientEvents */
/** @typedef {import("./signal/call.js").CallEvents} CallEvents */
/** @typedef {import("./signal/ice.js").Transport} Transport */
/** @typedef {import("./signal/token.js").TokenSource} TokenSource */

export { RoomFullError, SignalError } from "./signal/errors.js";
export { backoff, defaultURL } from "./signal/connection.js";
export { SignalClient } from "./signal/client.js";
export { iceConfiguration } from "./signal/ice.js";
export { Peer } from "./signal/peer.js";
export { Call } from "./signal/call.js";
