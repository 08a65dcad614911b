// The interface in a real browser, against a running server with a fixture.
//
//   node browser.mjs URL KEY [large|fresh]
//
// `large` is for a server with 100,000 streams: their budgets are checked instead. `fresh` is for a
// server without any entity, whose streamers are lost after a few seconds.
//
// Prints one line per check and fails with the first one that does not hold. `RESTART`, `END` and
// `START` on stdout are requests about the server to whoever started this, who answers each with a
// line. `ONLY=TEXT` runs the checks whose names have the text.
import puppeteer from 'puppeteer-core';
import { CHECKS as session } from './checks/session.mjs';
import { CHECKS as lists } from './checks/lists.mjs';
import { CHECKS as streams } from './checks/streams.mjs';
import { CHECKS as conflicts } from './checks/conflicts.mjs';
import { CHECKS as fresh } from './checks/fresh.mjs';
import { CHECKS as permissions } from './checks/permissions.mjs';
import { CHECKS as large } from './checks/large.mjs';
import { CHECKS as layouter } from './checks/layouter.mjs';
import { CHECKS as whatif } from './checks/whatif.mjs';
import { CHECKS as streamers } from './checks/streamers.mjs';
import { CHECKS as entities } from './checks/entities.mjs';
import { CHECKS as settings } from './checks/settings.mjs';
import { CHECKS as page } from './checks/page.mjs';
import { CHECKS as languages } from './checks/languages.mjs';
import { CHECKS as screens } from './checks/screens.mjs';

/** In this order: the last ones before the screens restart the server. */
const CHECKS_OF_SMALL = [
  session,
  lists,
  streams,
  conflicts,
  permissions,
  layouter,
  whatif,
  streamers,
  entities,
  settings,
  page,
  languages,
  screens,
];
const SETS = { large: [large], fresh: [fresh] };
const CHECKS = (SETS[process.argv[4]] ?? CHECKS_OF_SMALL).flatMap(Object.entries);

const browser = await puppeteer.launch({
  executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
  args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
  protocolTimeout: 120_000,
});
try {
  const only = process.env.ONLY;
  for (const [name, check] of CHECKS) {
    if (only && !name.includes(only)) continue;
    try {
      await check(browser);
    } catch (error) {
      throw new Error(`${name}: ${error.message}`, { cause: error });
    }
    console.log(`ok ${name}`);
  }
  console.log('done');
} finally {
  await browser.close();
}
process.exit(0);
