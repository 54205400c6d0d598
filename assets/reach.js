/**
 * Whether a node can be reached as it tells clients, only others can say. The page tries, if the server asks for it, and tells.
 */

import { iceConfiguration } from "./signal/ice.js";

/** How long a relay may take to be had. */
const PATIENCE_MS = 8000;

/**
 * Tells the server whether this browser gets a relay over UDP and over TCP. The first browser of a node is asked, others need not try.
 *
 * @param {RTCIceServer[]} iceServers
 */
export async function tellReach(iceServers) {
  const answer = await fetch("reach");
  if (!answer.ok || !(await answer.json()).wanted) return;
  const [udp, tcp] = await Promise.all([relayed(iceServers, "relay-udp"), relayed(iceServers, "relay-tcp")]);
  await fetch("reach", { method: "POST", body: JSON.stringify({ udp, tcp }) });
}

/**
 * Reports whether a relay can be had, or nothing when no server is named for that way.
 *
 * @param {RTCIceServer[]} iceServers
 * @param {"relay-udp"|"relay-tcp"} transport
 * @returns {Promise<boolean|undefined>}
 */
async function relayed(iceServers, transport) {
  const configuration = iceConfiguration(iceServers, transport);
  if (!configuration.iceServers?.length) return undefined;
  const pc = new RTCPeerConnection(configuration);
  try {
    pc.createDataChannel("reach");
    const found = new Promise((/** @type {(had: boolean) => void} */ resolve) => {
      pc.addEventListener("icecandidate", ({ candidate }) => resolve(Boolean(candidate?.candidate)));
      setTimeout(() => resolve(false), PATIENCE_MS);
    });
    await pc.setLocalDescription();
    return await found;
  } finally {
    pc.close();
  }
}
