// Drives FeatBit's JavaScript client SDK in Node.js for the end-to-end test.
//
//   node js-client.mjs <url> <user as JSON>
//
// The client secret comes in FLAGSTEAD_E2E_SECRET. Requests and answers are lines
// of JSON on stdin and stdout, as of client.mjs.

import { createInterface } from 'node:readline';
import { createRequire } from 'node:module';
import { makeDriver } from './driver.mjs';

const require = createRequire(import.meta.url);

// What browsers have, and Node.js 18 to 20 do not.
globalThis.WebSocket ??= require('ws');
const kept = new Map();
globalThis.localStorage ??= {
  getItem: (key) => kept.get(key) ?? null,
  setItem: (key, value) => kept.set(key, String(value)),
};

const [url, user] = process.argv.slice(2);
const driver = makeDriver(require('@featbit/js-client-sdk'), {
  secret: process.env.FLAGSTEAD_E2E_SECRET, url, user: JSON.parse(user),
});

const say = (answer) => process.stdout.write(JSON.stringify(answer) + '\n');

await driver.ready();
say({ ready: true });

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  const answer = await driver[request.op](request);
  say(answer);
  if (answer.closed) {
    break;
  }
}
// Timers of the SDK would keep the process alive.
process.exit(0);
