// How a Node backend takes its arguments and says that it listens; ws by NODE_PATH.

import { createRequire } from "node:module";
import { parseArgs } from "node:util";

export const { WebSocketServer } = createRequire(import.meta.url)("ws");

// The values of --host, --port (0: any free port) and of the backend's own options.
export function parseArguments(options = {}) {
  const { values } = parseArgs({
    options: {
      host: { type: "string", default: "127.0.0.1" },
      port: { type: "string", default: "0" },
      ...options,
    },
  });
  return { ...values, port: Number(values.port) };
}

// Prints one JSON line once `server` listens: the port, and since when.
export function announce(server) {
  server.on("listening", () => {
    const { port } = server.address();
    console.log(JSON.stringify({ port, listening_at: Date.now() / 1000 }));
  });
}
