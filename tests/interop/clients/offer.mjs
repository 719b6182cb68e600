// Offers subprotocols with the Node library `ws`, has one message echoed:
//
//     node offer.mjs URL SUBPROTOCOL...
//
// and prints as JSON what it was told and how that ended. `ws` is found by NODE_PATH.

import { createRequire } from "node:module";

const WebSocket = createRequire(import.meta.url)("ws");

const [url, ...offers] = process.argv.slice(2);
const result = { subprotocol: null, echo: null, close_code: null, error: null };
const socket = new WebSocket(url, offers);
socket.on("open", () => {
  result.subprotocol = socket.protocol;
  socket.send("hello");
});
socket.on("message", (data) => {
  result.echo = data.toString();
  socket.close(1000);
});
socket.on("error", (error) => {
  result.error = error.message;
});
socket.on("close", (code) => {
  result.close_code = code;
  console.log(JSON.stringify(result));
});
