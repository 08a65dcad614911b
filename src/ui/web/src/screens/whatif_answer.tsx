// What the layouter would do: moves, streams without a place, loads before and after.
import { useState } from 'preact/hooks';
import { changeShown, ConflictError } from '../changes';
import * as f from '../format';
import type { LoadChange, Session } from '../model';
import { Failure, Name, Panel, StreamerLink, Tile } from '../parts';
import { useSteps } from '../steps';
import { code, t } from '../text';
import { ROWS_SHOWN, type WhatIfAnswer } from '../whatif';
import { Moves } from './moves';

/** Two loads on one scale, the one of now above. Their numbers stand beside them. */
function LoadBars({ load, scale }: { load: LoadChange; scale: number }) {
  const width = (n: number) => (n / scale) * 100;
  const { before, after, delta } = load;
  return (
    <svg class="loads-bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">
      <rect class="bar-fill off" width={width(before)} height="4" />
      <rect class={`bar-fill ${delta > 0 ? 'ok' : 'warn'}`} y="6" width={width(after)} height="4" />
    </svg>
  );
}

export function Loads({ of, total }: { of: LoadChange[]; total: number }) {
  const shown = of.slice(0, ROWS_SHOWN);
  const scale = Math.max(1, ...shown.flatMap(({ before, after }) => [before, after]));
  return (
    <>
      <div class="scroll" tabindex={0} role="region" aria-label={t('whatif.loads')}>
        <table class="plain loads">
          <thead>
            <tr>
              <th>{t('col.streamer')}</th>
              <th class="num">{t('whatif.now')}</th>
              <th class="num">{t('whatif.then')}</th>
              <th class="num">{t('whatif.delta')}</th>
              <th class="wide">
                <span class="hidden">{t('whatif.bars')}</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {shown.map((load) => (
              <tr key={`${load.hostname} ${load.role}`}>
                <td>
                  <StreamerLink hostname={load.hostname} />{' '}
                  {load.role !== 'ingest' && <span class="label">{code('role', load.role)}</span>}
                </td>
                <td class="num">{f.count(load.before)}</td>
                <td class="num">
                  {f.count(load.after)}
                  {!!load.capacity && <small class="muted"> / {f.count(load.capacity)}</small>}
                </td>
                <td class="num">{f.signed(load.delta)}</td>
                <td class="wide">
                  <LoadBars load={load} scale={scale} />
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      {total > shown.length && (
        <p class="muted">{t('bulk.more', { n: f.count(total - shown.length) })}</p>
      )}
    </>
  );
}

function Numbers({ answer: { prediction, total, isByStream } }: { answer: WhatIfAnswer }) {
  const { moves_caused, moves_pending, unplaced, unplaced_before, unplaced_copies } = prediction;
  const already = t('whatif.already', { n: unplaced_before });
  const copies = unplaced_copies > 0 && t('whatif.copies', { n: unplaced_copies });
  const pending = moves_pending > 0 && t('whatif.pending', { n: moves_pending });
  return (
    <div class="tiles" role="status">
      <Tile title={t('whatif.moves')} value={f.count(moves_caused)} note={pending} />
      <Tile
        title={t('whatif.unplaced')}
        value={f.count(unplaced)}
        note={[already, copies].filter(Boolean).join(' · ')}
      />
      {!isByStream && <Tile title={t('whatif.loads')} value={f.count(total)} />}
    </div>
  );
}

/** Streams without a place, of which the API names some, and why no streamer takes them. */
export function Unplaced({ of }: { of: WhatIfAnswer['prediction']['unplaced_sample'] }) {
  return (
    <>
      <h3>{t('whatif.sample')}</h3>
      <ul class="lines">
        {of.map(({ name, reasons }, at) => (
          <li key={name ?? at}>
            {name === undefined ? <span>{t('whatif.new_stream')}</span> : <Name name={name} />}
            <span class="muted">{reasons.map((reason) => code('reason', reason)).join(', ')}</span>
          </li>
        ))}
      </ul>
    </>
  );
}

interface ApplyProps {
  answer: WhatIfAnswer;
  me: Session;
  onConflict: (error: Error) => void;
}

/** Saves the change that was asked about, if its entity is as it was then. */
function Apply({ answer, me, onConflict }: ApplyProps) {
  const [isSaved, setSaved] = useState(false);
  const { error, isBusy, run } = useSteps((failed) => {
    if (failed instanceof ConflictError) onConflict(failed);
  });
  const { change, prediction } = answer;
  if (!change) return null;
  const save = () =>
    run(async () => {
      await changeShown(change.shown, change.patch);
      setSaved(true);
    });
  const n = prediction.moves_caused;
  if (isSaved) {
    return (
      <p class="done" role="status">
        {t('whatif.saved', { name: change.shown.name })}
      </p>
    );
  }
  return (
    <>
      <Failure error={error} />
      <p class="apply">
        <button class="primary" disabled={isBusy || !me.may.write} onClick={save}>
          {n > 0 ? t('edit.save_moving', { n }) : t('edit.save')}
        </button>{' '}
        {!me.may.write && <span class="muted">{t('error.not_permitted')}</span>}
      </p>
    </>
  );
}

export function AnswerPanel(props: ApplyProps) {
  const { answer } = props;
  const { prediction, loads, streams, total, isByStream } = answer;
  const { unplaced, unplaced_before, unplaced_sample, hidden } = prediction;
  // Those of the question come first; those that have no place anyway follow the loads.
  const isWorse = unplaced > unplaced_before;
  const sample = unplaced_sample.length > 0 && <Unplaced of={unplaced_sample} />;
  return (
    <Panel title={t('whatif.answer')} kind="answer">
      <Numbers answer={answer} />
      <Apply {...props} />
      {isWorse && sample}
      {total === 0 && <p class="empty">{t('whatif.nothing')}</p>}
      {isByStream && <Moves of={streams} total={total} most={ROWS_SHOWN} />}
      {loads.length > 0 && <Loads of={loads} total={total} />}
      {!!hidden && <p class="muted">{t('whatif.hidden', { n: hidden })}</p>}
      {!isWorse && sample}
    </Panel>
  );
}
