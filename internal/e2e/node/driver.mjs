// What the end-to-end test asks of FeatBit's JavaScript client SDK, in Node.js and
// in a browser alike. A request is {op, …}; its answer is what the function returns.

const noValue = '(default of the call)';

export function makeDriver(sdk, { secret, url, user, polling }) {
  const build = ({ keyId, name, custom }) => {
    const builder = new sdk.UserBuilder(keyId).name(name);
    for (const [property, value] of Object.entries(custom ?? {})) {
      builder.custom(property, value);
    }
    return builder.build();
  };

  const client = new sdk.FbClientBuilder()
    .sdkKey(secret)
    .dataSyncMode(polling ? 'polling' : 'streaming')
    .streamingUri(url)
    .pollingUri(url)
    .pollingInterval(200)
    .eventsUri(url)
    .user(build(user))
    .startWaitTime(30_000)
    .flushInterval(60_000)
    .logger(new sdk.BasicLogger({ level: 'info', destination: console.error }))
    .build();

  // Those who wait for a value, asked again after each update that the SDK
  // announces. Nobody polls: an update that is not announced is never seen.
  const waiting = new Set();
  client.on('update', () => waiting.forEach((ask) => ask()));

  // The values that watched flags had, in order, as of each announced update.
  const histories = new Map();
  client.on('update', () => histories.forEach((seen, flag) => {
    const value = client.variation(flag, noValue);
    if (seen.at(-1) !== value) seen.push(value);
  }));

  return {
    async watch({ flag }) {
      histories.set(flag, [client.variation(flag, noValue)]);
      return {};
    },

    async history({ flag }) {
      return { values: histories.get(flag).map(String) };
    },

    ready: () => client.waitForInitialization(),

    async evaluate({ flag }) {
      return { value: client.stringVariation(flag, noValue), typed: client.variation(flag, null) };
    },

    // Answers once the flag has the value.
    await({ flag, value }) {
      return new Promise((resolve) => {
        const ask = () => {
          if (client.variation(flag, noValue) === value) {
            waiting.delete(ask);
            resolve({});
          }
        };
        waiting.add(ask);
        ask();
      });
    },

    async identify({ user }) {
      await client.identify(build(user));
      return {};
    },

    async track({ event, value }) {
      client.track(event, value);
      return {};
    },

    async flush() {
      return { flushed: await client.flush() };
    },

    async close() {
      await client.close();
      return { closed: true };
    },
  };
}
