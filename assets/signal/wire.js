/** @import { Message } from "./requests.js" */

/**
 * Reads a frame of the server.
 *
 * @param {string} frame
 * @returns {{message?: Message, data?: any}} Nothing when it is no message. `data` is that of the message, decoded, and an
 *   empty object for none.
 */
export function readMessage(frame) {
  try {
    const message = JSON.parse(frame);
    return { message, data: readData(message.data) ?? {} };
  } catch {
    return {};
  }
}

/**
 * Reads the data of a message, which is a JSON document in a string or a plain value.
 *
 * @param {any} data
 */
function readData(data) {
  if (typeof data !== "string") return data;
  try {
    return JSON.parse(data);
  } catch {
    return data;
  }
}
