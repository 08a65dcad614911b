// Two editors of one entity: the later save shows both versions and is made on top, or dropped.
import assert from 'node:assert/strict';
import {
  barriers,
  call,
  clickOn,
  loggedIn,
  noDialog,
  SIZES,
  tooWide,
  typePatch,
  WAIT,
  waitText,
} from '../pages.mjs';

const PRIMARY = 'dialog[open] footer button.primary';

/** The members that differ: name, what is stored now, what this editor typed, who changed it. */
const rowsOf = (page) =>
  page.$$eval('dialog .conflict tbody tr', (all) =>
    all.map((row) => [...row.cells].map((cell) => cell.textContent)),
  );

async function openEdit(page, patch) {
  await clickOn(page, 'Edit');
  await page.waitForSelector('dialog[open] textarea', WAIT);
  await typePatch(page, patch);
  await clickOn(page, 'Preview', 'dialog footer button');
  await page.waitForSelector(`${PRIMARY}:not(:disabled)`, WAIT);
}

/** Refused saves are reported by the browser itself. */
const unexpected = (reports) => reports.filter((report) => !report.includes('status of 412'));

export const CHECKS = {
  async 'of two editors the later one sees both versions'(browser) {
    const path = '/streams/two-editors';
    const hash = `#${path}`;
    const inputs = [{ url: 'rtsp://u:old-s3cret@10.0.0.1/a' }];
    await call('PUT', path, { title: 'before', labels: { kept: 'a' }, inputs });
    const [first, second] = [await loggedIn(browser, { hash }), await loggedIn(browser, { hash })];
    for (const { page } of [first, second]) await waitText(page, '.facts-line .title', 'before');
    const { page } = first;
    await page.bringToFront();
    await openEdit(page, '{"title": "mine", "labels": {"kept": null}, "position": 5}');
    await second.page.bringToFront();
    const theirs = { title: 'theirs', comment: '<b>x</b>' };
    theirs.inputs = [{ url: 'rtsp://u:new-s3cret@10.0.0.1/a' }];
    await openEdit(second.page, JSON.stringify(theirs));
    await second.page.click(PRIMARY);
    await noDialog(second.page);
    await page.bringToFront();
    await page.click(PRIMARY);
    await waitText(page, 'dialog .conflict', 'Another change came first. Nothing was changed.');
    const url = '[{"url":"rtsp://***@10.0.0.1/a"}]';
    assert.deepEqual(await rowsOf(page), [
      ['comment', '"<b>x</b>"', '–', 'another editor'],
      ['inputs', url, url, 'another editor'],
      ['labels.kept', '"a"', '–', 'you'],
      ['position', '–', '5', 'you'],
      ['title', '"theirs"', '"mine"', 'both: yours replaces it'],
    ]);
    const html = await page.evaluate(() => document.querySelector('dialog').outerHTML);
    assert.ok(!html.includes('s3cret'), 'secrets are masked');
    assert.equal((await call('GET', path)).title, 'theirs', 'nothing was changed');
    assert.deepEqual(await barriers(page), []);
    await page.setViewport({ ...SIZES.narrow, isMobile: false, hasTouch: false });
    assert.equal(await tooWide(page), 0);
    const [content, box] = await page.$eval('dialog', (it) => [it.scrollWidth, it.clientWidth]);
    assert.ok(content <= box, `the dialog is ${content} wide in ${box}`);
    await page.setViewport(SIZES.wide);
    // A third change before the second attempt: it is compared once more.
    await call('PUT', path, { comment: 'third' });
    await page.click(PRIMARY);
    await waitText(page, 'dialog .conflict', '"third"');
    await waitText(page, PRIMARY, 'Save yours on top');
    await page.click(PRIMARY);
    await noDialog(page);
    const saved = await call('GET', path);
    assert.deepEqual(
      [saved.title, saved.comment, saved.position, saved.labels ?? {}],
      ['mine', 'third', 5, {}],
    );
    assert.equal(saved.inputs[0].url, 'rtsp://u:new-s3cret@10.0.0.1/a');
    // The other way: what was typed is dropped.
    await waitText(page, '.facts-line .title', 'mine');
    await openEdit(page, '{"title": "dropped"}');
    await call('PUT', path, { title: 'kept' });
    await page.click(PRIMARY);
    await waitText(page, 'dialog .conflict', '"kept"');
    await clickOn(page, 'Drop yours', 'dialog footer button');
    await noDialog(page);
    await waitText(page, '.facts-line .title', 'kept');
    assert.equal((await call('GET', path)).title, 'kept');
    assert.deepEqual(unexpected([...first.reports, ...second.reports]), []);
    await first.context.close();
    await second.context.close();
    await call('DELETE', path);
  },

  async 'of two editors of a token the later one sees both versions'(browser) {
    const path = '/api_tokens/two-editors';
    const permission = (scope) => [{ scopes: [scope], list: true }];
    await call('PUT', path, { key: 's3cret-of-token', permissions: permission('streams/a') });
    const hash = '#/tokens/two-editors';
    const { page, context, reports } = await loggedIn(browser, { hash });
    await page.waitForSelector('dialog[open] textarea', WAIT);
    await typePatch(page, JSON.stringify({ permissions: permission('streams/mine') }));
    await call('PUT', path, { permissions: permission('streams/theirs') });
    await page.click(PRIMARY);
    await page.waitForSelector('dialog .conflict', WAIT);
    const [row, ...others] = await rowsOf(page);
    assert.deepEqual(others, []);
    assert.equal(row[0], 'permissions');
    assert.match(row[1], /streams\/theirs/);
    assert.match(row[2], /streams\/mine/);
    const html = await page.evaluate(() => document.body.outerHTML);
    assert.ok(!html.includes('s3cret'));
    await page.click(PRIMARY);
    await noDialog(page);
    const saved = await call('GET', path);
    assert.deepEqual(saved.permissions[0].scopes, ['streams/mine']);
    assert.equal(saved.key, 's3cret-of-token', 'a save of permissions keeps the key');
    assert.deepEqual(unexpected(reports), []);
    await context.close();
    await call('DELETE', path);
  },
};
