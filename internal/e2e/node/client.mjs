// Drives FeatBit's Node server SDK for the end-to-end test.
//
//   node client.mjs <streamingUrl> <eventsUrl>
//
// The environment secret comes in FLAGSTEAD_E2E_SECRET, because arguments are
// visible to every user of a machine. The first line on stdout is {"ready":true};
// then each line on stdin is a request and gets one line as its answer. The SDK
// logs to stderr. The end of stdin ends the process, so that it cannot outlive
// the test.

import { createInterface } from 'node:readline';
import { BasicLogger, FbClientBuilder, UserBuilder } from '@featbit/node-server-sdk';

const [streamingUrl, eventsUrl] = process.argv.slice(2);

const client = new FbClientBuilder()
  .sdkKey(process.env.FLAGSTEAD_E2E_SECRET)
  .streamingUri(streamingUrl)
  .eventsUri(eventsUrl)
  .startWaitTime(30_000)
  .maxEventsInQueue(100_000)
  .logger(new BasicLogger({ level: 'info', destination: console.error }))
  .build();

const say = (answer) => process.stdout.write(JSON.stringify(answer) + '\n');

const noValue = '(default of the call)';

function userOf({ key, name, custom }) {
  const builder = new UserBuilder(key).name(name);
  for (const [property, value] of Object.entries(custom ?? {})) {
    builder.custom(property, value);
  }
  return builder.build();
}

const typed = {
  boolean: (flag, user) => client.boolVariationDetail(flag, user, null),
  number: (flag, user) => client.numberVariationDetail(flag, user, null),
  json: (flag, user) => client.jsonVariationDetail(flag, user, null),
};

// Those who wait for a value, asked again after each update that the SDK
// announces. Nobody polls: an update that is not announced is never seen.
const waiting = new Set();
client.on('update', () => waiting.forEach((ask) => ask()));

// The values that watched flags had for a user, in order, as of each announced update.
const histories = new Map();
client.on('update', () => histories.forEach(({ user, seen }, flag) => {
  client.stringVariation(flag, user, noValue).then((value) => {
    if (seen.at(-1) !== value) seen.push(value);
  });
}));

const requests = {
  async watch({ flag, user: plain }) {
    const user = userOf(plain);
    histories.set(flag, { user, seen: [await client.stringVariation(flag, user, noValue)] });
    return {};
  },

  async history({ flag }) {
    return { values: histories.get(flag).seen };
  },

  async evaluate({ pairs }) {
    const results = [];
    for (const { flag, user: plain, type } of pairs) {
      const user = userOf(plain);
      const { kind, value } = await client.stringVariationDetail(flag, user, noValue);
      const result = { kind, value };
      if (type in typed) {
        const detail = await typed[type](flag, user);
        result.typed = { kind: detail.kind, value: detail.value };
      }
      results.push(result);
    }
    return { results };
  },

  // Answers once the flag has the value for the user.
  await({ flag, user: plain, value }) {
    const user = userOf(plain);
    return new Promise((resolve, reject) => {
      const ask = () => client.stringVariation(flag, user, noValue).then((got) => {
        if (got === value) {
          waiting.delete(ask);
          resolve({});
        }
      }, reject);
      waiting.add(ask);
      ask();
    });
  },

  async flush() {
    return { flushed: await client.flush() };
  },

  async close() {
    await client.close();
    return { closed: true };
  },
};

await client.waitForInitialization();
say({ ready: true });

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  const answer = await requests[request.op](request);
  say(answer);
  if (answer.closed) {
    break;
  }
}
// Timers of the SDK would keep the process alive.
process.exit(0);
