// The pause of the layouter: by whom, until when and why; its begin and its end.
import { useState } from 'preact/hooks';
import { dropImproving, pauseLayouter, resumeLayouter, type PausedMoves } from '../changes';
import * as f from '../format';
import type { LayouterPause, LayouterStatus, Session } from '../model';
import { Dialog, Failure, Given, Mark, Panel, Tabs, TextInput, Time } from '../parts';
import { useSteps } from '../steps';
import { code, pieces, t } from '../text';

/** How long a pause is that is proposed. */
const LENGTH = '30m';

/** What is paused, until when, by whom and why. */
export function PauseLine({ pause }: { pause: LayouterPause }) {
  return (
    <p class="maintenance">
      <Mark of="cordoned" /> <b>{t(`paused.${pause.what}`)}</b> ·{' '}
      {pause.until
        ? pieces('layouter.until', { at: <Time at={pause.until} /> })
        : t('layouter.until_ended')}{' '}
      · <Given text={pause.by.replace('api_token:', '')} />
      {pause.reason && (
        <>
          {' '}
          · <Given text={pause.reason} />
        </>
      )}
    </p>
  );
}

interface DialogProps {
  onClose: () => void;
  onSaved: () => void;
}

function PauseDialog({ onClose, onSaved }: DialogProps) {
  const [what, setWhat] = useState<PausedMoves>('improving');
  const [until, setUntil] = useState(LENGTH);
  const [reason, setReason] = useState('');
  const { error, isBusy, run } = useSteps();
  const save = () =>
    run(async () => {
      await pauseLayouter({ what, reason, ...(until && { until }) });
      onSaved();
    });
  const actions = (
    <>
      <button class="quiet">{t('cancel')}</button>
      <button class="primary" type="button" disabled={isBusy} onClick={save}>
        {t('layouter.pause')}
      </button>
    </>
  );
  const choices: [PausedMoves, string][] = [
    ['improving', t('layouter.what_improving')],
    ['all', t('layouter.what_all')],
  ];
  return (
    <Dialog title={t('layouter.pauses')} onClose={onClose} actions={actions}>
      <Tabs label={t('layouter.what')} of={choices} value={what} onPick={setWhat} />
      <p>{t(`pause_means.${what}`)}</p>
      <TextInput label={t('streamer.reason')} name="reason" value={reason} onType={setReason} />
      <TextInput label={t('layouter.length')} name="until" value={until} onType={setUntil} />
      <Failure error={error} />
    </Dialog>
  );
}

function DropDialog({ waiting, onClose, onSaved }: DialogProps & { waiting: number }) {
  const { error, isBusy, run } = useSteps();
  const save = () =>
    run(async () => {
      await dropImproving();
      onSaved();
    });
  const actions = (
    <>
      <button class="quiet">{t('cancel')}</button>
      <button class="primary" type="button" disabled={isBusy} onClick={save}>
        {t('layouter.drop')}
      </button>
    </>
  );
  return (
    <Dialog title={t('layouter.drop')} onClose={onClose} actions={actions}>
      <p>{t('layouter.drop_means')}</p>
      <p class="lead">{t('layouter.drop_n', { n: waiting })}</p>
      <Failure error={error} />
    </Dialog>
  );
}

interface ActionsProps {
  status: LayouterStatus;
  me: Session;
  /** Reads the state again. */
  onChanged: () => void;
}

/** Pause, resume and drop, each disabled with the reason where it is not possible. */
export function PauseActions({ status, me, onChanged }: ActionsProps) {
  const [opened, setOpened] = useState<'pause' | 'drop' | null>(null);
  const { error, isBusy, run } = useSteps();
  const close = () => setOpened(null);
  const saved = () => {
    close();
    onChanged();
  };
  const resume = () =>
    run(async () => {
      await resumeLayouter();
      onChanged();
    });
  const refusal = me.may.write ? undefined : t('error.not_permitted');
  const offToo = refusal ?? (status.enabled ? undefined : t('layouter.is_off'));
  const { improving } = status.waiting;
  return (
    <>
      <span class="buttons">
        {status.paused && (
          <button disabled={!!refusal || isBusy} title={refusal} onClick={resume}>
            {t('layouter.resume')}
          </button>
        )}
        <button disabled={!!offToo} title={offToo} onClick={() => setOpened('pause')}>
          {t('layouter.pause')} …
        </button>
        <button
          disabled={!!offToo || improving === 0}
          title={offToo ?? (improving === 0 ? t('layouter.none_improving') : undefined)}
          onClick={() => setOpened('drop')}
        >
          {t('layouter.drop')} …
        </button>
      </span>
      <Failure error={error} />
      {opened === 'pause' && <PauseDialog onClose={close} onSaved={saved} />}
      {opened === 'drop' && <DropDialog waiting={improving} onClose={close} onSaved={saved} />}
    </>
  );
}

/** What waits, by urgency and reason, the budgets of moves and the brake. */
export function QueuePanel({ status }: { status: LayouterStatus }) {
  const { waiting, budgets, brake } = status;
  const reasons = Object.entries(waiting.by_reason).sort((a, b) => b[1] - a[1]);
  const left = Object.entries(budgets ?? {});
  return (
    <Panel title={t('layouter.queue')}>
      <dl class="facts wide queue">
        <dt>{t('layouter.urgent')}</dt>
        <dd>{f.count(waiting.urgent)}</dd>
        <dt>{t('layouter.improving')}</dt>
        <dd>{f.count(waiting.improving)}</dd>
        {reasons.map(([reason, n]) => (
          <>
            <dt>{code('reason', reason)}</dt>
            <dd>{f.count(n)}</dd>
          </>
        ))}
        <dt>{t('layouter.brake')}</dt>
        <dd>
          {brake.on
            ? pieces('layouter.brake_on', {
                since: <Time at={brake.since} />,
                at: <Time at={brake.until} />,
                why: brake.why ?? '–',
              })
            : t('layouter.brake_off')}
        </dd>
        {left.map(([name, budget]) => (
          <>
            <dt>{code('budget', name)}</dt>
            <dd>{t('layouter.left', { n: f.count(budget.left), of: f.count(budget.limit) })}</dd>
          </>
        ))}
      </dl>
    </Panel>
  );
}
